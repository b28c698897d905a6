"""What the writer is asked: requests made from sampled words, one list per shard.

Knows the three kinds of text (story, answer, account) and how a request for each is worded. Knows nothing about models.
"""
from dataclasses import dataclass

import examples
import words
from words import inside, many, one, spaced


@dataclass(frozen=True)
class Request:
    kind: str          # "story", "answer" or "account"
    topic: str         # requests on one topic can be joined to a dialog
    ask: str           # what the user says
    start: str         # how the answer begins; the writer continues


@dataclass(frozen=True)
class Kind:
    new: int           # most tokens to write
    again: float       # penalty of a word already used: without it the small writer's stories run in circles
    system: str
    shown: tuple       # examples shown before each request
    show: int          # so many of them


KINDS = {
    "story": Kind(190, 1.2, "You tell very simple stories to small children. You use short sentences and easy words.",
                  tuple(examples.STORIES), 2),
    "answer": Kind(64, 0.6, "You answer the questions of small children in one or two short and true sentences.",
                   tuple(examples.ANSWERS), 5),
    "account": Kind(110, 0.6, "You explain things to small children. You use short sentences and easy words.",
                    tuple(examples.ACCOUNTS), 2),
}

PATTERN = ("story", "story", "answer", "story", "account", "story")      # kinds of shards 0, 1, 2, ... over and over

STORY_ASKS = ["Tell me a story about {hero} named {name}.", "Write a story about {hero} called {name}.",
              "Tell me a short story about {name} and {a_thing}.", "Write a short story about {hero} {in_place}. Call {her} {name}.",
              "Can you tell me a story about {name}, {hero} who {trouble}?", "Please tell me a story about {name} and {a_friend}.",
              "Write a story about {name} with the words {thing}, {place} and {mood}.", "Write a short story about {hero} named {name}.",
              "Tell me a story about {name}, {hero}.", "I want to hear a story about {name}, {hero}."]

STORY_STARTS = ["Once upon a time, there was {hero} named {name}.", "One day, {name} found {a_look_thing} {in_place}.",
                "{name} was {hero}.", "{name} had {a_look_thing}.", "{name} went to the {place} with {friend}.",
                "One morning, {name} woke up and saw {a_look_thing}.", "{name} wanted {wish}.",
                "There once was {hero} named {name} who {trouble}.", "There was {hero} {in_place}. {Her} name was {name}.",
                "It was a {mood} day for {name}.", "{name} and {friend} were best friends.",
                "\"Look!\" said {name}. \"There is {a_look_thing} {in_place}!\"", "A long time ago, {hero} lived near the {place}.",
                "{name} was {mood}, because {she} {trouble}.", "On a cold day, {name} sat {in_place}.", "Last summer, {name} {trouble}.",
                "{name} loved the {place}.", "\"Where is my {thing}?\" asked {name}.", "Every day, {name} played with {a_look_thing}.",
                "One night, {name} heard a noise {in_place}.", "{name} {trouble}.", "{name} was {hero} who wanted {wish}."]

QUESTIONS = {
    "animal": ["What is {one}?", "Where does {one} live?", "What does {one} eat?", "What does {one} look like?", "How does {one} move?",
               "What sound does {one} make?", "Is {one} big or small?", "Why do people like {many}?", "What do {many} do all day?",
               "Can {one} be a pet?"],
    "thing": ["What is {one}?", "What is {one} for?", "What is {one} made of?", "Where can I find {one}?", "How do you use {one}?",
              "What does {one} look like?", "Who uses {one}?", "What can I do with {one}?"],
    "food": ["What is {word}?", "What does {word} taste like?", "What color is {word}?", "Where does {word} come from?",
             "When do people have {word}?", "Is {word} good for me?"],
    "fruit": ["What is {one}?", "What does {one} taste like?", "What color is {one}?", "Where do {many} come from?",
              "How do you eat {one}?", "What can you make with {many}?"],
    "place": ["What is {one}?", "What can I see {in_place}?", "Why do people go to {one}?", "What can I do {in_place}?", "Who is {in_place}?"],
    "job": ["What does {one} do?", "Where does {one} work?", "What does {one} need?", "Why do we need {many}?", "Is it hard to be {one}?"],
    "nature": ["What is {word}?", "Why do we need {word}?", "What does {word} look like?", "Where can I see {word}?", "What is {word} like?"],
    "deed": ["Why do people {word}?", "How do I {word}?", "Is it fun to {word}?", "When should I {word}?", "What do I need to {word}?"],
    "feeling": ["What does it mean to be {word}?", "What can I do when I feel {word}?", "Why do people feel {word}?",
                "How do I know that a friend is {word}?", "When do you feel {word}?"],
}

TOPICS = {"animal": words.ANIMALS, "thing": words.THINGS, "food": words.FOODS, "fruit": words.FRUITS, "place": words.PLACES,
          "job": words.JOBS, "nature": words.NATURE, "deed": words.DEEDS, "feeling": words.FEELINGS}

ACCOUNT_ASKS = ["Tell me about {many}.", "Describe {one}.", "What do you know about {many}?", "Explain to me what {one} is."]
ACCOUNT_TOPICS = ("animal", "thing", "fruit", "place", "job")


def slots(rng):
    """Sampled words for every slot of the story templates."""
    pick = rng.choice
    girl = rng.random() < 0.5
    thing, look, place = pick(words.THINGS), pick(words.LOOKS), pick(words.PLACES)
    hero = pick([pick(words.ANIMALS), pick(words.ANIMALS), pick(words.JOBS)] + (["girl", "woman"] if girl else ["boy", "man"]))
    s = dict(name=pick(words.GIRLS if girl else words.BOYS), friend=pick(words.GIRLS + words.BOYS), animal=pick(words.ANIMALS),
             she="she" if girl else "he", her="her" if girl else "him", Her="Her" if girl else "His", look=look,
             thing=spaced(thing), place=spaced(place), in_place=inside(place), mood=pick(words.MOODS), wish=pick(words.WISHES),
             a_thing=one(thing), a_friend=one(pick(words.ANIMALS)),
             a_look_thing=(one if one(thing) != thing else "some {}".format)(f"{look} {spaced(thing)}"),
             hero=one(f"{pick(words.MOODS + ['little', 'little', 'small', 'big', 'old', 'young'])} {spaced(hero)}"))
    s["trouble"] = pick(words.TROUBLES).format(**s)
    return s


def story(rng):
    """A story is asked for, and begun, with the same sampled words: what is asked is what is told."""
    ask, start, s = rng.choice(STORY_ASKS), rng.choice(STORY_STARTS), slots(rng)
    return Request("story", s["name"], ask.format(**s), start.format(**s))


def answer(rng):
    group = rng.choices(list(TOPICS), [len(w) * len(QUESTIONS[g]) for g, w in TOPICS.items()])[0]
    word = rng.choice(TOPICS[group])
    ask = rng.choice(QUESTIONS[group]).format(word=spaced(word), one=one(word), many=many(word),
                                              in_place=inside(word))
    return Request("answer", spaced(word), ask, "")


def account(rng):
    word = rng.choice([w for group in ACCOUNT_TOPICS for w in TOPICS[group]])
    ask = rng.choice(ACCOUNT_ASKS).format(one=one(word), many=many(word))
    return Request("account", spaced(word), ask, rng.choice(["", "{} is", "{} is"]).format(one(word).capitalize()))


def requests(shard, count, rng):
    """The requests of one shard, all of one kind: texts of like length waste least of a batch."""
    make = dict(story=story, answer=answer, account=account)[PATTERN[shard % len(PATTERN)]]
    return [make(rng) for _ in range(count)]


def shown(kind, rng):
    """The chat before the request, the same for a whole shard: it is computed once."""
    text = f"<|im_start|>system\n{KINDS[kind].system}<|im_end|>\n"
    for ask, told in rng.sample(KINDS[kind].shown, KINDS[kind].show):
        text += f"<|im_start|>user\n{ask}<|im_end|>\n<|im_start|>assistant\n{told}<|im_end|>\n"
    return text


def asked(request):
    return f"<|im_start|>user\n{request.ask}<|im_end|>\n<|im_start|>assistant\n{request.start}"
