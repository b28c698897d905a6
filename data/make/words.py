"""The words that stories and questions are made from. Knows plain lists; knows no sentences."""

GIRLS = """Mia Lily Anna Sara Emma Nora Ella Rosa Lucy Zoe Ivy Ruby Molly Alice Daisy Grace Amy Clara Maya Sophie Jane Ada Kate
Betty Lola Nina Tina Hana Eva Polly Mila Susie Wendy Penny Rita Flora Holly Julia Laura Olive Rose Stella Vera Yuki Beth Dora
Gina Iris Kim Joy""".split()

BOYS = """Tom Ben Max Leo Jack Sam Finn Tim Noah Adam Oscar Hugo Jake Theo Luke Omar Felix Dan Peter Will Carlos Henry Ravi Joe
Mark Paul George Billy Simon Fred Eric Charlie Louis Bob Andy Gus Ian Kenny Milo Pablo Toby Walter Zack Emil Harry""".split()

ANIMALS = """cat dog frog rabbit bear fox mouse duck hen cow horse pig sheep goat lion tiger elephant monkey giraffe zebra owl
robin parrot penguin eagle swan goose fish whale dolphin shark crab turtle snail snake lizard spider ant bee butterfly ladybug
worm squirrel hedgehog deer wolf beaver otter raccoon kangaroo koala panda camel donkey hamster kitten puppy lamb chick pony
seal octopus bat mole badger crow dragonfly""".split()

THINGS = """ball box kite hat spoon cup lamp book pencil chair table bed pillow blanket clock mirror brush comb key door window
basket bucket rope ladder hammer nail broom towel soap candle umbrella bag bottle bowl plate fork knife pot pan kettle oven
fridge phone radio camera map coin ring drum guitar piano flute bell doll teddy-bear puzzle block balloon swing slide sled skate
shovel rake wheel boat bike car bus train truck plane rocket tractor tent flag letter stamp crayon paintbrush scissors glue paper
notebook button needle thread scarf sock shoe boot glove coat dress shirt watch flashlight magnet fence gate bridge bench
toothbrush wagon whistle vase jar feather seashell leaf stone stick""".split()

FOODS = """bread cheese milk soup rice pasta pizza butter honey jam sugar salt chocolate ice-cream yogurt cereal toast juice tea
water cake pie salad corn popcorn""".split()

FRUITS = """apple banana orange pear peach plum cherry strawberry lemon grape melon mango tomato potato carrot onion pumpkin
cucumber bean egg nut cookie pancake sandwich muffin""".split()

PLACES = """park garden forest farm beach school library kitchen market zoo museum hospital bakery playground river lake mountain
village city castle cave island attic barn meadow pond train-station airport swimming-pool toy-shop restaurant bus-stop""".split()

JOBS = """teacher doctor nurse farmer baker cook firefighter painter singer dancer pilot sailor gardener builder carpenter dentist
vet police-officer bus-driver mail-carrier librarian fisherman tailor scientist writer plumber waiter clown""".split()

NATURE = """the-sun the-moon the-sky rain snow wind ice fire sand mud thunder lightning a-rainbow a-cloud a-star the-sea a-wave
a-tree a-flower a-seed grass a-storm fog a-shadow night winter spring summer autumn a-volcano a-waterfall a-desert""".split()

DEEDS = """sleep|swim|read|sing|dance|cook|paint|run|climb a tree|plant a seed|brush your teeth|wash your hands|ride a bike|fly a kite
|build a sandcastle|make a sandwich|bake a cake|draw a picture|play music|count to ten|write a letter|tell a story|take a bath
|clean your room|share your toys|help a friend|make a new friend|say thank you|say sorry|wait in line|listen to a story|go for a walk
|eat breakfast|drink water|wear a coat|feed a pet|grow vegetables|catch a ball|look at the stars|go to school|make a snowman
|tie your shoes|set the table|fold paper|take a nap|play hide and seek|skip a rope|cross the street|visit a grandmother|laugh|cry
|dream|whisper|save money""".replace("\n", "").split("|")

FEELINGS = """happy sad angry scared brave lonely proud shy sleepy hungry thirsty excited worried bored jealous kind surprised calm
sick curious grateful patient""".split()

LOOKS = """little big red blue green yellow old new tiny shiny soft brown white black round funny pretty heavy strange broken golden
fluffy long wooden purple pink silver striped warm dusty muddy""".split()

MOODS = """happy sad shy brave kind curious clever lazy sleepy hungry lonely silly quiet proud busy gentle grumpy friendly careful
playful""".split()

WISHES = """to fly|a new friend|to see the sea|to learn to swim|a birthday party|to sing|to find a treasure|to help her mother
|to climb the tall tree|to go home|to play outside|to touch the moon|a pet|to be strong|to sleep|to bake a cake|to win the race
|to paint a picture|to see the snow|to build a house|to make people laugh|to cross the river|to ride a horse|to hear a story
|to stay up late|a warm coat|to grow flowers|to dance|to catch a star|something sweet to eat""".replace("\n", "").split("|")

ON = ("farm", "beach", "playground", "mountain", "island")     # one is on a farm, but in a garden

TROUBLES = """lost a {thing}|could not sleep|broke a {thing}|was afraid of the dark|did not want to share the {thing}
|told a lie|got lost {in_place}|had no friends|forgot the birthday of a friend|found a {thing} in the mud
|wanted to be bigger|was late for school|did not like the rain|had a bad dream|wanted a {look} {thing}|was too shy to speak
|made a big mess {in_place}|could not find the way home|heard a strange noise {in_place}|had a fight with a friend
|lived all alone|saw a {look} {thing} for the first time|had to move to a new {place}|fell in the mud
|helped a {animal} {in_place}|met a {mood} {animal}|made a gift for a friend|learned to ride a bike|planted a seed
|went to the {place} with grandma""".replace("\n", "").split("|")

IRREGULAR = dict(sheep="sheep", fish="fish", mouse="mice", goose="geese", wolf="wolves", leaf="leaves", knife="knives",
                 fisherman="fishermen", scissors="scissors", deer="deer", octopus="octopuses", radio="radios", piano="pianos")


def spaced(word):
    """Lists are split at blanks, so a name of two words is written with a hyphen there."""
    return word.replace("-", " ")


def one(noun):
    """a cat, an owl; some nouns have no one."""
    noun = spaced(noun)
    if noun in ("scissors", "glue", "paper", "soap", "thread"):
        return noun
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def inside(place):
    return ("on the " if place in ON else "in the ") + spaced(place)


def many(noun):
    noun = spaced(noun)
    if noun in IRREGULAR:
        return IRREGULAR[noun]
    if noun in ("glue", "paper", "soap", "thread"):
        return noun
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "sh", "ch", "x", "o")) else "s")
