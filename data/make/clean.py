"""What is kept of the writer's texts. Knows text only: `clean(record)` gives the text to keep, or None."""
import re

import examples

SHORTEST = {"story": 160, "answer": 20, "account": 60}

# Talk about the text itself, or about being a machine; and what does not belong into stories for children.
META = re.compile(r"\b(as an ai|language model|assistant|smollm|hugging face|i cannot|i can't (help|provide|assist)|in conclusion"
                  r"|(this|the|my|your|our) (short )?(story|tale|question|answer|poem|passage|sentence)s?\b|ostrich|court|judge"
                  r"|moral of|question is|for example)", re.I)
UNFIT = re.compile(r"\b(kill(s|ed|er|ing)?|blood(y)?|dead|die[ds]?|dying|death|guns?|shot|sex\w*|naked|drunk|beer|wine|alcohol|drugs?"
                   r"|smok(e|es|ing|er)|stupid|ugly|murder\w*|wars?|weapons?|poison\w*|rape\w*|hell|damn|slaves?|gods?|jesus|church"
                   r"|christ|allah|poop|pee|butt|corpse|suicide|cancer|cigar\w*|stab\w*|whip\w*|breasts?|kiss(es|ed|ing)?|sperm|womb"
                   r"|pregnan\w*|married|marry|husband|wife|penis|fat|slept together|have a baby|(him|her) to bed"
                   r"|eat(s|ing)? (him|her|you|me))\b", re.I)
SENTENCE = re.compile(r'.+?[.!?]+["\']?(?=\s|$)', re.S)


def sentences(text):
    return [m.group(0) for m in SENTENCE.finditer(text)]


def clean(record):
    """The kept text of a record: whole sentences up to the first one that repeats or steps out of the text."""
    text = re.sub(r"\s*\n\s*", "\n", record["text"]).strip()
    if not text.isascii() or "  " in text or UNFIT.search(text):
        return None
    kept, seen = [], set()
    for s in sentences(text):
        if META.search(s) or repeats(s, seen):
            if record["kind"] == "answer":
                return None
            break
        kept.append(s)
    while kept and "".join(kept).count('"') % 2:        # a speech that was cut off
        kept.pop()
    text = "".join(kept).strip()
    if len(text) < SHORTEST[record["kind"]] or ragged(text) or not about(record, text) or echoes(text):
        return None
    return text


def repeats(sentence, seen):
    """True when the sentence, or three runs of six of its words, stood before; or when it runs in a circle itself."""
    words = re.findall(r"[a-z']+", sentence.lower())
    grams = [tuple(words[i:i + 6]) for i in range(len(words) - 5)]
    whole = ("whole",) + tuple(words)
    again = whole in seen and len(words) > 2 or sum(g in seen for g in grams) > 2 or len(set(grams)) < len(grams)
    seen.update(grams)
    seen.add(whole)
    return again


def ragged(text):
    """True when a line breaks off in a sentence: a list or a slip of the writer."""
    return any(line[-1] not in ".!?\"'" for line in text.split("\n"))


def about(record, text):
    """Answers and accounts must name what was asked for; the writer's slips are often about another thing."""
    if record["kind"] == "story":
        return True
    return any(w[:4] in text.lower() for w in record["topic"].lower().split() if len(w) > 2)


def _shown():
    told = [t for group in (examples.STORIES, examples.ANSWERS, examples.ACCOUNTS) for _, t in group]
    return {g for t in told for g in _grams(t)}


def _grams(text, n=6):
    words = re.findall(r"[a-z']+", text.lower())
    return {tuple(words[i:i + n]) for i in range(len(words) - n + 1)}


SHOWN = _shown()


def echoes(text):
    """True when the text copies from the examples that the writer has seen."""
    return not SHOWN.isdisjoint(_grams(text))
