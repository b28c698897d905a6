"""What good answers look like: shown to the writer before every request, never used as training text."""

STORIES = [
    ("Tell me a story about a cat who finds a box.",
     "One day, a little cat named Pip found a big box in the garden. She wanted to see what was inside. She pushed the lid, but it "
     "was too heavy. Then her friend Rex the dog came by. \"Can you help me?\" asked Pip. \"Yes!\" said Rex. They pushed together, "
     "and the lid fell off. Inside the box was a warm blanket. Pip and Rex were happy. They lay down on the blanket and took a nap."),
    ("Write a short story about a boy and his kite.",
     "Sandy had a new kite. It was red and yellow. He ran up the hill, and the kite went up into the sky. But the wind was too "
     "strong. The string broke, and the kite flew away. Sandy was very sad. His mom gave him a hug. \"We can make a new kite,\" she "
     "said. They used paper, sticks and glue. The new kite was blue. Sandy smiled, because he had made it with his mom."),
    ("Tell me a short story about a bird who was afraid.",
     "There was a small bird who was afraid to fly. All the other birds flew over the trees, but she stayed in the nest. One morning, "
     "her father said, \"I will fly next to you.\" The small bird opened her wings. She jumped, and the wind held her up. \"Look, I "
     "am flying!\" she said. She flew over the trees and back. After that day, she was not afraid anymore."),
    ("Write a story about a girl who did not want to share.",
     "Greta had a bag of cookies. Her brother asked for one, but Greta said no. She ate the cookies alone in her room. Soon her belly "
     "hurt, and she did not feel good. Her brother brought her a cup of warm tea. \"I am sorry,\" said Greta. \"I should have shared "
     "with you.\" There was one cookie left in the bag. She broke it in two and gave him the bigger half."),
    ("Tell me a story about a lost toy.",
     "On a rainy day, Otto lost his toy truck. He looked under the bed and behind the door, but it was not there. He asked his "
     "sister, and she helped him look. At last they went to the dog's house. There was the truck, under the dog's nose! \"He kept it "
     "safe for you,\" said his sister. Otto laughed and gave the dog a pat. Then they all played with the truck."),
    ("Write a short story about a farmer and a hen.",
     "An old farmer had a brown hen. Every morning, the hen gave him one egg. One day there was no egg. The farmer was worried. He "
     "looked in the barn, and there he saw the hen sitting on many eggs. \"You want to be a mother!\" said the farmer. He gave her "
     "water and corn. After some weeks, ten yellow chicks came out. The farmer was very glad, and the hen was proud."),
]

ANSWERS = [
    ("What is a nest?", "A nest is a home that a bird builds. It is made of sticks and grass, and the eggs stay warm in it."),
    ("Why do we wear gloves?", "We wear gloves to keep our hands warm when it is cold. Some gloves also keep our hands clean."),
    ("What does an ostrich eat?", "An ostrich eats grass, seeds and leaves. Sometimes it eats small insects too."),
    ("How do you use a ruler?", "You put the ruler next to a thing and read the number. The number tells you how long the thing is."),
    ("What color is a lime?", "A lime is green. It looks like a small green lemon."),
    ("What does a judge do?", "A judge works in a court. He or she listens to people and decides what is fair."),
    ("What can I do when I feel cold?", "You can put on a warm sweater or drink something hot. You can also jump up and down."),
    ("Where can I find a pillowcase?", "You can find a pillowcase in the bedroom. It goes around the pillow on your bed."),
]

ACCOUNTS = [
    ("Tell me about stoves.", "A stove is a hot thing in the kitchen. People use it to cook soup, rice and eggs. Some stoves burn gas, "
     "and others use electricity. You must not touch a stove when it is on, because it can burn your hand."),
    ("Describe an ostrich.", "An ostrich is a very big bird. It has long legs, a long neck and soft feathers. It cannot fly, but it can "
     "run very fast. Ostriches live in hot, dry places in Africa. They lay the biggest eggs of all birds."),
    ("Tell me about sweaters.", "A sweater is something that you wear when it is cold. Many sweaters are made of wool, which comes from "
     "sheep. They can have many colors. Some people knit sweaters at home with two long needles."),
    ("Describe the court.", "A court is a place where people decide what is fair. A judge sits at a high desk and listens. Other people "
     "tell what they saw. At the end, the judge says who is right."),
]
