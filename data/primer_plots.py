"""The grammar of data/primer.py: characters, things, phrases, plots and word problems: data, not program.

Read a plot or two for an impression; the rest is more of the same. All of it was written for this project.

A plot is a sequence of beats, separated by empty lines. A story uses one line of each beat. In a line, [a|b]
is a choice, {word} is a fact of this story (its hero, a thing, a place) or a phrase from PHRASES, and {Word}
is the same with a capital. A beat that is only "¶" starts a new paragraph. Facts that belong together are one
row of a table: a kite gets stuck in a tree, a boat in the reeds.

The hero is {hero}, {he}, {him} and {his}. A friend is {friend}, {fhe}, {fhim} and {fhis}, always of the other
gender, so "he" and "she" are unambiguous. A grown-up is {adult}, {ahe}, {ahim}, and {kin} (mother, uncle).
"""
from __future__ import annotations

import re
import textwrap
from typing import NamedTuple, Sequence

Row = dict  # of a fact's name to its text


def lines(text: str) -> list[str]:
    """One item per line. A line with deeper indentation continues the previous one."""
    return re.sub(r"\n +", " ", textwrap.dedent(text.strip("\n"))).strip().split("\n")


def table(fields: str, rows: str) -> list[Row]:
    """Facts that belong together, one row each. Semicolons separate the cells."""
    names = fields.split()
    cells = [[cell.strip() for cell in row.split(";")] for row in lines(rows)]
    assert all(len(row) == len(names) for row in cells), [row for row in cells if len(row) != len(names)]
    return [dict(zip(names, row)) for row in cells]


# ----------------------------------------------------------------------------------------------
# people, animals, things and phrases that any plot may use

GIRLS = """
    Lily Mia Anna Ella Rosa Nora Zoe Ruby Clara Ivy Maya Lucy Emma Sara Tess Hana Leila Amina Priya
    Molly Daisy Alice Grace June Kira Lena Nina Olive Penny Sofia Tara Vera Willa Yuki Zara Ada Bella
    Cleo Dora
""".split()
BOYS = """
    Tom Ben Sam Max Leo Finn Jack Noah Omar Theo Hugo Eli Oscar Milo Ravi Kofi Luis Ivan Adam Peter
    Henry George Felix Jonas Kai Levi Nico Otto Paul Jamal Ryan Simon Toby Victor Yusuf Zack Aaron Bruno
    Carl
""".split()
ANIMAL_GIRLS = """
    Poppy Dot Clover Misty Honey Pearl Willow Button Maple Tilly Coco Ginger Pansy Snowy
""".split()
ANIMAL_BOYS = """
    Rusty Biscuit Bramble Tuck Chester Moss Pebble Rocky Barley Hopper Bumble Basil Pip Teddy
""".split()
TRAITS = """
    kind brave curious shy clever cheerful quiet gentle busy silly stubborn helpful careful playful
    polite patient thoughtful lively
""".split()
HOMES = lines("""
    a small house by the sea
    a little village near the hills
    a tall building in the middle of the city
    an old farmhouse at the end of a long road
    a yellow house with a big garden
    a little town by a river
    a cottage at the edge of the woods
    a few rooms above a bakery""")
CHILD_NAMES = {"girl": GIRLS, "boy": BOYS}
ANIMAL_NAMES = {"girl": ANIMAL_GIRLS, "boy": ANIMAL_BOYS}
PRONOUNS = {"girl": ("she", "her", "her"), "boy": ("he", "him", "his")}

ADULTS = table("adult adult_gender kin", """
    Mom; girl; mother
    Dad; boy; father
    Grandma; girl; grandmother
    Grandpa; boy; grandfather
    Aunt [Rose|Jane|May]; girl; aunt
    Uncle [Joe|Fred|Ali]; boy; uncle""")

ANIMALS = table("kind home place", """
    rabbit; a warm burrow under an old oak; meadow
    fox; a den between the roots of a tree; forest
    bear; a cave on the side of a mountain; forest
    mouse; a tiny hole under a barn; field
    squirrel; a nest at the top of a pine tree; forest
    duck; a nest among the reeds; marsh
    frog; a pond full of lily pads; marsh
    hedgehog; a bed of dry leaves; garden
    otter; a hollow on the bank of a river; valley
    beaver; a lodge made of sticks; valley
    turtle; a muddy hollow beside a pond; marsh
    mole; a tunnel under the grass; meadow
    raccoon; a hollow log; forest
    badger; a deep hole in a hill; forest
    monkey; a nest at the top of a tall tree; jungle
    deer; a quiet thicket; forest""")

PHRASES = {name: lines(text) for name, text in {
    "open_child": """
        Once upon a time, there was a {trait} {kind} named {hero}.
        {hero} was a {trait} {kind} who lived in {home}.
        There once was a {kind} named {hero}. {He} lived with {his} {kin} in {home}.
        In {home} there lived a {trait} {kind}. {His} name was {hero}.
        {hero} lived with {his} {kin} in {home}. {He} was a {trait} {kind}.
        This is the story of a {trait} {kind} named {hero}.
        {hero} was [five|six|seven|eight] years old, and {he} was a {trait} {kind}.
        Not so long ago, a {kind} named {hero} lived in {home}.""",
    "open_animal": """
        Once upon a time, there was a {trait} [little|young] {kind} named {hero}.
        {hero} was a [little|young] {kind}. {He} lived in {home}.
        In {home} there lived a {trait} {kind}. {His} name was {hero}.
        Deep in the {place} lived a {trait} {kind} named {hero}.
        Long ago, in {home}, there lived a {kind} named {hero}.
        There once was a {trait} {kind} named {hero}. All the animals in the {place} knew {him}.""",
    "one_day": """
        one day
        one morning
        one fine morning
        one afternoon
        on Saturday
        one Sunday
        early one morning
        one day after lunch
        on a quiet afternoon""",
    "soon": """
        soon
        after a while
        a little later
        before long""",
    "was_sad": """
        {hero} felt [very |]sad
        {hero} wanted to cry
        [big |]tears came to {his} eyes
        {hero} hung {his} head
        {hero} felt a lump in {his} throat""",
    "was_happy": """
        {hero} was [so|very] happy
        {hero} jumped for joy
        {hero} smiled from ear to ear
        {hero} laughed out loud
        {hero} felt warm inside
        {hero} clapped {his} hands""",
    "was_proud": """
        {hero} felt very proud
        {hero} stood up tall
        {hero} could not stop smiling
        {hero} felt ten feet tall
        {his} eyes were shining""",
    "nice_day": """
        the sun was shining, and the sky was blue
        a soft wind was blowing
        the birds were singing in the trees
        the air smelled of flowers
        white clouds sailed across the sky
        the grass was still cool and wet""",
    "good_night": """
        that night, {hero} fell asleep with a smile
        that night {he} dreamed about it all over again
        it had been a [very|truly] good day
        {hero} was tired but happy when {he} went to bed
        at supper, {hero} told the whole story twice""",
}.items()}


# ----------------------------------------------------------------------------------------------
# the plots

class Plot(NamedTuple):
    hero: str  # child, animal or either
    tables: Sequence[Sequence[Row]]
    beats: list[list[str]]


def plot(hero: str, tables: Sequence[Sequence[Row]], prose: str) -> Plot:
    return Plot(hero, tables, [lines(beat) for beat in re.split(r"\n\s*\n", prose)])


TREASURES = table("toy look", """
    ball; [red|striped|bouncy]
    teddy bear; [brown|soft|fluffy]
    doll; [rag|pretty|wooden]
    toy car; [blue|shiny|tiny]
    toy horse; [wooden|white|spotted]
    hat; [green|woolly|funny]
    scarf; [long|purple|warm]
    whistle; [silver|tin|loud]
    book; [thick|picture|blue]
    toy train; [little|yellow|wooden]
    toy rabbit; [gray|velvet|floppy]
    flashlight; [small|bright|orange]
    drum; [tin|round|red]
    top; [spinning|painted|humming]""")
SEARCHES = table("search search2", """
    under the chair; behind the door
    in the toy box; on every shelf
    beside the stairs; in the kitchen
    under the rug; inside the closet
    on the porch; behind the curtains
    in the hall; under the desk""")
CLUES = table("clue spot", """
    I had it when I went to sleep; under the bed
    I had it when I changed my clothes; in the laundry basket
    I had it when I took off my boots; inside a big boot by the front door
    I had it when I ate my breakfast; under the kitchen table, next to the cat
    I had it when I came home from school; at the bottom of {his} school bag
    I had it when you read me a story; between two cushions of the sofa
    I had it before my bath; behind the bathtub
    I had it when I dug a hole; in the sandbox, under the sand
    I had it when I played with the dog; in the dog's bed
    I had it when I rode my bicycle; in the basket of {his} bicycle
    I had it when we picked apples; on the bench under the apple tree
    I had it when I watered the flowers; beside the watering can in the garden""")
LOST = plot("child", (TREASURES, SEARCHES, CLUES), """
    {open}

    {He} had a {look} {toy}, and {he} loved it more than all {his} other things.
    {His} favorite thing in the world was a {look} {toy}. {He} took it everywhere.
    For {his} birthday, {adult} had given {him} a {look} {toy}. {He} never went anywhere without it.

    ¶

    {One_day}, {hero} looked for {his} {toy}, but it was gone.
    {One_day}, {hero} wanted to play, but {he} could not find {his} {toy}.
    "Where is my {toy}?" {hero} asked {one_day}. It was not in its place.

    {He} looked {search}. {He} looked {search2}. It was not there.
    First {he} looked {search}, and then {he} looked {search2}. There was no {toy} anywhere.
    {He} looked {search} and {search2}, but {he} found only [an old sock|a bit of dust|a lost button].

    {Was_sad}.
    "It is lost forever!" {he} cried. {Was_sad}.
    "Now I will never see it again," {he} said.

    ¶

    "When did you have it last?" asked {adult}.
    {adult} sat down beside {him}. "Let us think," {ahe} said. "When did you have it last?"
    "Do not cry," said {adult}. "Close your eyes and think. When did you have it last?"

    {hero} thought hard. "{clue}," {he} said.
    {hero} closed {his} eyes and thought about it. "{clue}!" {he} said.

    They [ran|went] to look. And there it was, {spot}!
    {hero} ran to look, and there was the {toy}, {spot}.
    "Then I know where we must look," said {adult}. And sure enough, the {toy} was {spot}.

    {hero} hugged the {toy} and did not let go of it all day.
    {Was_happy}. "Thank you for helping me think," {he} said.
    "I found it! I found it!" {he} sang. {Was_happy}.

    After that, {hero} always put the {toy} [on the shelf|in the toy box|beside {his} bed] after playing.
    {hero} slept well that night, and the {toy} lay on the pillow.
    {Good_night}.""")

SHARED = table("toy look together", """
    swing; [new|wooden]; They took turns, and each one pushed the other
    wagon; [red|big]; {hero} pulled and {friend} rode, and then they changed places
    box of crayons; [new|big]; They drew a long picture of the whole town
    box of blocks; [wooden|heavy]; They built a tower that was taller than a chair
    sled; [fast|new]; They sat on it together and flew down the hill
    drum; [loud|tin]; {friend} danced while {hero} played, and then {hero} danced
    toy train; [long|shiny]; {hero} was the driver, and {friend} sold the tickets
    tent; [green|striped]; They sat inside and told each other secrets
    kite; [yellow|paper]; They held the string together, and the kite flew over the roofs
    puzzle; [hard|new]; {friend} found the very last piece
    soccer ball; [new|black and white]; They kicked it back and forth across the grass
    scooter; [silver|fast]; They counted the seconds for each other's rides
    dollhouse; [tall|pink]; They put tiny chairs and tables into all the rooms""")
SHARING = plot("child", (SHARED,), """
    {open}

    {He} had a {look} {toy}, and {he} was very proud of it.
    {One_day}, {he} got a {look} {toy} from {adult}.
    {His} {kin} gave {him} a {look} {toy}. "It is all mine," {he} thought.

    ¶

    {One_day}, {friend} came over to play. "May I play with your {toy} too?" {fhe} asked.
    {friend}, the {friend_kind} from next door, saw the {toy}. "May I have a turn?" {fhe} asked.
    {His} friend {friend} came by. "What a nice {toy}! Can we play with it together?" {fhe} asked.

    "No," said {hero}. "It is mine."
    "No, you might break it," said {hero}, and {he} held the {toy} tight.
    {hero} shook {his} head. {He} did not want to share.

    {friend} looked at the ground and walked away.
    {friend} did not say a word. {Fhe} sat down under a tree, all alone.
    "Oh," said {friend} in a small voice, and {fhe} went home.

    ¶

    {hero} played alone. But {soon} it was not much fun anymore.
    {hero} played and played, but there was nobody to laugh with.
    It was very quiet. {hero} looked at the {toy} and did not want to play anymore.

    "Why is {friend} sad?" asked {adult}. {hero} knew why, and {he} felt sorry.
    "A toy is more fun with a friend," said {adult}. {hero} thought about that for a while.
    {He} thought about {friend}'s sad face, and {he} felt bad.

    So {hero} went to {friend}. "I am sorry," {he} said. "Let us play together."
    {He} ran after {friend} and said, "I was wrong. Please come and play with me."

    {friend} smiled. {together}.
    "Do you really mean it?" asked {friend}. {hero} nodded. {together}.

    They laughed and played until the sun went down.
    They had so much fun that they forgot about lunch.

    {hero} learned that sharing makes a good thing even better.
    "Come again tomorrow," said {hero}, and {friend} did.
    From that day on, the {toy} was for both of them.""")

FEARS = table("fear trigger advice deed", """
    the dark; the lamp went out, and every shadow looked like a monster;
        Count ten good things, one on each finger; counted slowly. At ten, the monster was only {his} coat
    thunder; a storm came, and the thunder shook the windows;
        Count with me after each flash; counted. The numbers grew bigger and bigger as the storm rolled away
    deep water; they went to the lake, and the water looked deep and cold;
        Put in one toe first, and hold my hand; put in a toe, then a foot, then both knees. It was not so cold
        at all
    the tall slide; all the other children went down the tall slide;
        Start with the small slide and work your way up; slid down the small one, then the middle one, then
        the tall one
    big dogs; the big dog next door came to the gate and barked;
        Let it smell your hand; held out {his} hand. The dog sniffed it, licked it, and wagged its tail
    the doctor; it was time to go to the doctor;
        Squeeze my hand and think of ice cream; squeezed hard. It was over before {he} could say a word
    singing in front of people; the teacher asked {him} to sing for the whole class;
        Look only at me and sing to me; looked up and sang. The song came out clear, and everybody clapped
    spiders; there was a spider in the bathtub;
        Sit still and watch what it does; sat and watched. The spider made a web as fine as silver thread
    the cellar; {he} had to get a jar of plums from the cellar;
        Take the lantern and sing a song; sang all the way down and all the way back, with the jar in {his}
        arms
    bees; a fat bee landed on {his} sleeve;
        Stand still like a tree; stood very still. The bee looked around and flew off to a flower
    the high bridge; they came to a bridge that swung in the wind;
        Look at the other side and not down; took one small step, and another, and then {he} was across
    the night train; a long train roared past the house, and the beds shook;
        Say good night to each car as it goes by; said good night to every car, and the last one seemed to
        answer""")
FEAR = plot("child", (FEARS,), """
    {open}

    {He} was not afraid of [mice|worms|the rain], but {he} was very much afraid of {fear}.
    {hero} liked [games|stories|long walks], but {he} did not like {fear}. {He} was afraid.
    There was only one thing that {hero} was afraid of, and that was {fear}.

    ¶

    {One_day}, {trigger}.
    Then, {one_day}, {trigger}.

    {His} heart beat fast, and {his} knees shook.
    {hero} wanted to run away and hide.
    "I want to go home," {he} whispered.
    {hero} held on to {adult} and would not let go.

    "Are you scared?" asked {adult}. {hero} nodded.
    "I was afraid of that too when I was little," said {adult}.
    "It is all right to be afraid," said {adult}. "Being brave means trying anyway."

    Then {ahe} said, "{advice}."
    {Ahe} bent down and whispered, "I will tell you a trick. {advice}."

    ¶

    {hero} took a deep breath. Then {he} {deed}.
    {hero} was still a little scared, but {he} {deed}.
    So {hero} {deed}.

    "I did it!" {he} shouted. {Was_proud}.
    "You were very brave," said {adult}. {Was_proud}.
    "That was not so bad," {he} said. {Was_happy}.

    After that, {hero} was never so afraid of {fear} again.
    {Good_night}.
    And when {his} friend {friend} was afraid of {fear}, {hero} told {fhim} the trick.
    The next time, {hero} did not even need a hand to hold.""")

CREATURES = table("creature where trouble deed thanks", """
    bird; under a bush; had hurt its wing; made a soft nest in a box and fed it crumbs for a week;
        flew up into the blue sky and sang
    kitten; high up in a tree; could not get down; leaned a ladder against the tree and carried it down;
        purred and rubbed its head against {his} leg
    turtle; in the middle of the road; was lying on its back; turned it over and took it to the grass;
        looked at {him} for a moment and walked slowly to the pond
    hedgehog; behind the fence; was caught in a net; cut the strings one by one with scissors;
        sniffed {his} shoe and hurried into the bushes
    duckling; beside the path; had fallen into a deep hole; put a board into the hole like a little ramp;
        ran straight to its mother
    puppy; at the corner of the street; was cold and lost; wrapped it in a coat and read the name on its
        collar;
        licked {his} face when its owner came
    butterfly; in the garden; was caught in an old web; freed its wings with a blade of grass;
        danced once around {his} head and flew away
    squirrel; near the picnic table; had its head stuck in a cup; held the cup still while it pulled itself
        out;
        sat on a branch and waved its tail
    lamb; on the hill; had its leg caught in the fence; pushed the rails apart;
        jumped high and ran back to the other sheep
    fish; on the beach; was trapped in a small pool; carried it to the waves in a bucket;
        flashed once like silver and was gone
    bee; on the window sill; was too tired to fly; gave it a drop of sugar water on a spoon;
        buzzed and flew off to the roses
    owl; in the barn; could not find the way out; opened the big doors as wide as they would go;
        flew out without a sound
    goat; at the bottom of a ditch; could not climb out; put down flat stones like a stair;
        climbed out, shook itself, and ate {his} hat""")
RESCUE = plot("child", (CREATURES,), """
    {open}

    {He} liked animals very much.
    {He} knew the names of [all the birds|many animals], and {he} was always kind to them.
    {He} liked to be outside in all kinds of weather.

    ¶

    {One_day}, {hero} heard a small sound. {Where} {he} found a {creature}. It {trouble}.
    {One_day}, {hero} saw a {creature} {where}. It {trouble}.
    {hero} was out [for a walk|with {adult}] when {he} saw something {where}. It was a {creature}, and it
        {trouble}.

    "Poor little thing," said {hero}. "I will help you."
    "Oh no!" said {hero}. "Do not be afraid. I want to help you."
    The {creature} looked at {him} with big round eyes.

    {He} did not know what to do, so {he} ran to get {adult}.
    "We must be very gentle," said {adult}.
    {hero} tried to help, but {he} could not do it alone. {He} called {adult}.

    Together they {deed}.
    {hero} and {adult} talked softly to the {creature}. Then they {deed}.

    ¶

    {Soon} everything was well. The {creature} {thanks}.
    At last the {creature} was safe. It {thanks}.

    "Goodbye, little friend!" called {hero}.
    "I think it said thank you," said {adult}.
    {Was_happy}.

    Every day after that, {hero} looked for the {creature}, and sometimes {he} saw it again.
    {adult} put a hand on {his} shoulder. "You have a kind heart," {ahe} said.
    {Good_night}.
    {hero} knew that even a small person can be a big help.""")

SKILLS = table("skill fail advice success", """
    ride a bicycle; {he} fell into the grass; Look ahead and not at your feet; rode all the way to the corner
    swim; {he} swallowed a mouthful of water; Kick your legs like a frog; swam from one side of the pool to
        the other
    whistle; only air came out; Make your lips small and round; whistled one high, clear note
    fly a kite; the kite crashed into a bush; Run into the wind; made the kite climb higher than the roofs
    tie {his} shoes; the laces came undone; Make two rabbit ears and cross them; tied a bow that lasted all
        day
    bake bread; the bread was as hard as a stone; Let the dough rest and grow; took a round, golden loaf out
        of the oven
    jump rope; the rope caught {his} feet; Listen to the sound of the rope; jumped ten times in a row
    play the flute; it squeaked like a mouse; Blow softly, as if you cooled your soup; played a whole song
    draw a horse; it looked like a potato with legs; Draw only what you see, one line at a time;
        drew a horse that seemed to gallop off the page
    skate; {he} sat down hard on the ice; Bend your knees a little; glided all the way around the pond
    juggle; the balls rolled under the sofa; Begin with only one ball; kept three balls in the air
    row a boat; the boat went round and round; Pull with both arms at the same time; rowed straight across the
        lake
    read; the letters danced before {his} eyes; Take one word at a time; read a whole page out loud
    turn a cartwheel; {he} rolled over like a log; Keep your arms and legs straight; turned three cartwheels
        in a row
    catch a ball; it slipped through {his} fingers; Keep your eyes on the ball; caught it with one hand
    play chess; {he} lost {his} queen at once; Think before you touch a piece; beat {adult} for the first time
    climb the rope; {his} hands slipped; Hold the rope with your feet too; touched the beam at the very
        top""")
SKILL = plot("child", (SKILLS,), """
    {open}

    More than anything, {hero} wanted to learn how to {skill}.
    All the big children could {skill}, but {hero} could not.
    {His} friend {friend} could {skill}, and {hero} wanted to learn it too.

    ¶

    {One_day}, {he} tried it for the first time, but {fail}.
    {He} tried it {one_day}, but {fail}. {He} tried again, and it was no better.

    "I will never learn it," {he} said.
    {Was_sad}. "It is too hard for me," {he} said.
    {hero} was so angry that {he} stamped {his} foot.
    Some children laughed, and {his} face turned red.

    "Nobody can do it the first time," said {adult}. "{advice}."
    {adult} had seen it all. "{advice}," {ahe} said. "And do not give up."
    "May I tell you a secret?" asked {his} friend {friend}. "{advice}. That is how I learned it."

    ¶

    {hero} tried again and again, every day for a [week|month].
    So {hero} practiced every day after school. Some days went well, and some did not.
    The next day {he} tried again, and the day after that. Each time it went a little better.

    And then, {one_day}, {he} {success}.
    At last, {he} {success}.
    On the [tenth|seventh|ninth] day, {hero} {success}.

    "Look at me!" {he} called. "I can {skill}!"
    "You did it!" shouted {adult}. {Was_proud}.
    {adult} clapped. {Was_proud}.

    {hero} knew now that hard things become easy when you keep trying.
    The next week, {hero} began to teach a smaller child. "{advice}," {he} said.
    {Good_night}.""")

GIFTS = table("gift begin missing fix", """
    cake; took out the flour, the butter, and the milk; there were no eggs;
        went to a neighbor who kept hens and came home with three brown eggs
    necklace; cut a long string; there were no beads left in the box;
        went to the beach and gathered tiny shells with holes in them
    card; folded a sheet of thick paper; there was no red paint;
        crushed some berries, and they made the brightest red of all
    scarf; knitted and knitted; the blue wool was all used up;
        took some yellow wool, and so the scarf had a yellow stripe
    birdhouse; found four good boards; there was no roof;
        bent an old tin lid until it made a fine little roof
    picture frame; glued four sticks together; it looked very plain;
        glued acorns and smooth stones all around it
    pie; rolled out the dough; the apple basket was empty;
        picked blackberries along the lane until {his} fingers were purple
    puppet; stuffed an old sock with wool; it had no eyes;
        cut two shiny buttons from a worn coat
    flower crown; bent a ring of soft wire; the flower shop was closed;
        walked to the meadow and picked daisies, poppies, and clover
    pillow; sewed two pieces of cloth together; there was nothing to fill it with;
        gathered soft feathers in the hen yard
    lantern; cut windows into a paper bag; there was no candle;
        put a little flashlight inside, and it glowed like the moon
    book; wrote a story with seven pages; {he} could not draw;
        asked {his} friend {friend} to draw the pictures, and {fhe} drew them all""")
GIFT = plot("child", (GIFTS,), """
    {open}

    {adult}'s birthday was coming. {hero} wanted to make a {gift} for {ahim}.
    "Tomorrow is {adult}'s birthday," thought {hero}. "I will make a {gift}."
    {hero} had no money, but {he} wanted to give {adult} something nice. "I will make a {gift}," {he} said.

    ¶

    {He} went [to the kitchen|to {his} room|to the big table] and {begin}. Then {he} stopped. Oh dear,
        {missing}!
    {hero} got up early and {begin}. But then {he} saw that {missing}.
    {He} {begin}. Everything went well at first. But {soon} there was a problem, for {missing}.

    {Was_sad}. "Now I have no present," {he} said.
    "What can I do?" {he} wondered.
    "I must not give up," {he} thought. "There has to be another way."

    {hero} thought and thought. Then {he} had an idea. {He} {fix}.
    {He} looked out of the window and thought. Suddenly {he} smiled. {He} {fix}.
    So {hero} {fix}.

    ¶

    The {gift} was done just in time.
    {He} worked until the evening, and at last the {gift} was done.
    It took all afternoon, but in the end it was the prettiest {gift} in the whole town.

    The next day, {he} gave it to {adult}. "Did you make this all by yourself?" {ahe} asked.
    "Happy birthday!" said {hero}. {adult} opened the paper and [gasped|laughed with joy].
    "Close your eyes," said {hero}. When {adult} opened them, there was the {gift}.

    "It is the best present I ever had," said {adult}, and {ahe} gave {hero} a big hug.
    "It is lovely," said {adult}, and {ahe} kissed {him} on the cheek.
    {adult} looked at it for a long time. "I will keep this day in my heart," {ahe} said.

    {Was_happy}.
    {Was_proud}.
    Then they all sang a song and ate [plum cake|ice cream|warm rolls with jam].""")

ACCIDENTS = table("thing how repair", """
    blue vase; kicked {his} ball in the living room; glued the pieces together, one by one
    window; threw a ball too hard; swept up the glass and put in a new pane
    tea cup; danced with a tray in {his} hands; painted a new cup with red dots
    lamp; jumped on the sofa; made a new shade out of colored paper
    flower pot; ran through the hall with the dog; put the flower into a bigger pot with fresh earth
    big plate; tried to carry too many dishes; made a picture out of the pieces
    jar of jam; climbed up to the top shelf; washed the floor and cooked new jam
    clock; wanted to see what was inside, and all the wheels fell out; put all the little wheels back in their
        places
    mirror; swung a stick like a sword; picked up the pieces with thick gloves and bought a new one
    picture; hung {his} coat on its frame; made a new frame out of pine wood
    radio; spilled a glass of juice; dried it in the sun until it played again
    chair; leaned back too far; mended the leg with glue and string
    fishing rod; used a stick to fight a dragon, and the stick was not a stick at all; tied the two halves
        together with strong thread""")
TRUTH = plot("child", (ACCIDENTS,), """
    {open}

    {One_day}, while {adult} was out, {hero} {how}. Now {adult}'s {thing} was broken.
    {One_day}, {hero} {how}. Oh no! {He} had broken {adult}'s {thing}.
    {adult} had a {thing} that {ahe} liked very much. {One_day}, {hero} {how}, and the {thing} broke.

    ¶

    {hero} was afraid that {adult} would be angry. {He} hid in {his} room.
    "Nobody saw it," thought {hero}. "I could say that the cat did it."
    {His} first thought was to run away. {His} face was hot.

    All day {he} had a bad feeling in {his} stomach. {He} did not even want to eat [cake|pudding|pancakes].
    But {he} could not play, and {he} could not read. {He} could only think about the {thing}.
    The secret felt as heavy as a stone in {his} pocket.

    ¶

    In the evening, {adult} asked, "What happened to the {thing}?"
    {Soon} {adult} came home. "Where is my {thing}?" {ahe} asked.
    At supper, {adult} looked at {him}. "Is something wrong?" {ahe} asked.

    {hero} looked at the floor. "I broke it," {he} said. "I am very sorry."
    {hero} wanted to tell a lie. But then {he} said, "It was me. I am so sorry."
    "I broke the {thing}," said {hero}, and {he} began to cry. "It was an accident."

    {adult} was quiet for a moment. "Thank you for telling the truth," {ahe} said.
    {adult} was not angry. "A thing can be fixed," {ahe} said. "I am glad that you told me."
    "I was a little sad," said {adult}, "but I am proud that you were honest."

    ¶

    Together they {repair}.
    The next day they {repair}. {hero} worked very hard.

    {hero} felt as light as a feather.
    The bad feeling was gone.
    {hero} slept well that night, because {he} had no secret to keep.

    After that, {hero} was more careful, and {he} always told the truth.
    "No more games like that in the house," said {hero}, and both of them laughed.
    And {hero} never forgot how good it feels to tell the truth.""")

PLANS = table("plan instead", """
    have a picnic in the park; spread a blanket on the floor and ate sandwiches with all the toy animals
    go to the beach; filled the bathtub and sailed paper boats from one end to the other
    sleep in the garden; made a tent out of sheets and told stories with a flashlight
    go to the zoo; put all the toy animals in boxes and painted signs with their names
    play soccer; rolled up some socks and played soccer in the long hall
    take a boat to the island; turned the table upside down and sailed it across the carpet
    go to the fair; threw rings over bottles and painted each other's faces
    ride their bicycles; drew a town with roads on a big sheet of paper and drove toy cars through it
    climb the hill; piled up all the pillows in the house and climbed to the top
    look for treasure in the woods; hid ten pennies all over the house and drew a map
    watch the parade; marched from room to room with pots and spoons for drums
    pick strawberries; opened a jar of strawberry jam and baked little pies""")
RAIN = plot("child", (PLANS,), """
    {open}

    {One_day}, {hero} and {his} friend {friend} wanted to {plan}.
    {hero} had waited all week. Today {he} and {his} friend {friend} would {plan} at last.
    "Tomorrow we will {plan}," {adult} had said. {hero} and {his} friend {friend} could hardly sleep.

    ¶

    But when they looked outside, dark clouds were coming. {Soon} it began to rain.
    Then they heard a sound on the roof. Drip, drop, drip, drop. It was raining!
    But the sky turned gray, the wind blew, and big drops of rain hit the window.

    "Our day is spoiled," said {friend}.
    "It is not fair!" said {hero}. {Was_sad}.
    They pressed their noses against the glass and waited, but the rain did not stop.

    ¶

    Then {hero} had an idea. "If we cannot go out, we will do it in here!"
    {adult} came in with a smile. "Who says that we need the sun?" {ahe} asked.
    "Wait," said {friend}. "Why not do it right here in the house?"

    So they {instead}.
    They ran through the house and gathered all they needed. They {instead}.

    {adult} [played too|brought them hot cocoa|took a picture of them]. It was so much fun that nobody heard
        the rain.
    They laughed so loudly that the cat hid under the bed.
    {friend} laughed until {fhis} sides hurt.

    When the sun came out at last, they did not even notice.
    "I hope that it rains tomorrow too," said {hero}.
    "This was even better than our plan," said {friend}, and {hero} agreed.
    In the evening, a rainbow stood over the roofs. "Thank you, rain!" called {hero}.""")

HOBBIES = table("doing joining after", """
    drawing with chalk on the ground; Can I draw a [whale|castle|bus]?; drew until the whole yard was full of
        color
    watching the ants; Where are they all going?; followed the ants all the way to their hill
    building a dam in a puddle; Do you need more stones on that side?; built a lake with three islands
    reading a book about [dinosaurs|ships|the stars]; Is that your favorite book?; read it together, one page
        each
    throwing a ball against a wall; Do you want somebody to throw it back?; threw the ball a hundred times
    making a chain of daisies; Could you show me how to do that?; made a chain that went around the whole
        bench
    digging a hole in the sand; Are you digging for gold?; dug so deep that the hole filled with water
    feeding the pigeons; May I give them my bread too?; gave every pigeon a funny name
    folding a paper plane; Can it fly over the fence?; let ten planes fly over the fence
    playing a tune on a comb; What song is that?; made up a song about a dancing cow
    looking for beetles; Did you see the green one on that leaf?; found nine kinds and let them all go""")
NEW_FRIEND = plot("child", (HOBBIES,), """
    {open}

    {He} had just moved to a new [town|street|school], and {he} did not know anybody.
    {His} family had moved, and everything was new. {hero} missed {his} old friends.
    It was {his} first day at a new school, and {hero} was shy.

    Every day {he} sat on a bench and watched the other children play.
    "Nobody here knows my name," {he} thought. {Was_sad}.
    "What if nobody likes me?" {he} had asked {adult}.

    "Somebody else may be waiting for a friend, just like you," said {adult}.
    "You only need to say one word," said {adult}. "The word is hello."
    "A smile is a good way to begin," {adult} told {him}.

    ¶

    {One_day}, {hero} saw a {friend_kind} who was all alone. {Fhe} was {doing}.
    {One_day}, in a quiet corner, {he} saw a {friend_kind}. {Fhe} was {doing}.

    {hero} took a deep breath and walked over. "Hello," {he} said. "{joining}"
    {His} heart was beating fast, but {he} went closer. "{joining}" {he} asked.
    {hero} wanted to turn around. But then {he} said, "Hello. My name is {hero}. {joining}"

    The {friend_kind} looked up and smiled. "Yes!" {fhe} said. "I am {friend}."
    "I am {friend}," said the {friend_kind}. "I hoped that somebody would ask."
    The {friend_kind} moved over to make room. "My name is {friend}," {fhe} said.

    ¶

    They {after}.
    They talked and laughed. Then they {after}.

    When it was time to go home, {friend} asked, "Will you come back tomorrow?" "Of course," said {hero}.
    "You are funny," said {friend}. "I like you."
    "See you tomorrow!" called {friend}.

    {hero} ran home to tell {adult}. "I have a friend!" {he} shouted.
    From that day on, {hero} and {friend} were best friends.
    And {hero} was never lonely again.
    Now, when a new child comes, {hero} is the first to say hello.""")

BOASTS = table("proud humble boast contest turn result", """
    hare; turtle; Nobody is as fast as I am; They agreed to race to the old oak;
        The hare was soon far ahead, so it lay down in the shade and fell asleep. The turtle kept walking,
        step by step;
        When the hare woke up, the turtle was already sitting under the oak
    fox; hedgehog; I know a hundred tricks, and you know only one; Then a big dog came running out of the
        bushes;
        While the fox was thinking which trick to use, the dog almost caught its tail. The hedgehog rolled
        into a ball;
        The dog hurt its nose on the spines and ran away, and both of them were safe
    bear; mouse; You are too small to be of any use; Then the bear stepped into a hunter's net;
        It pulled and roared, but the net only grew tighter. The mouse began to gnaw at the ropes;
        The last rope broke, and the bear was free
    magpie; wren; My nest is the tallest of all; In the night a great storm came;
        The tall nest rocked, and stick after stick fell to the ground. The wren's nest was low and strong;
        In the morning the magpie came, wet and cold, and the wren made room
    grasshopper; ant; Work is for fools, and I would rather sing; Summer passed, and then it began to snow;
        The grasshopper had nothing to eat, and it was cold. The ant's house was full of grain;
        The ant opened the door, and the grasshopper sang for its supper
    squirrel; mole; I can jump from tree to tree, and you can only crawl; They wanted to go to the lake, and
        it got dark;
        The squirrel could not see a thing and bumped into a trunk. The mole never needed any light;
        The mole led the way, and they were home before midnight
    rooster; owl; The sun comes up only because I sing; One morning the rooster had a cold and could not sing;
        It sat in the straw and was afraid that the night would never end. The owl only smiled;
        The sun came up as always, and the rooster had to laugh at itself
    crow; sparrow; I am so clever that I need no help; They were thirsty and found a jug with a little water
        in it;
        The crow could not reach it and scolded the jug. The sparrow dropped in one pebble, and then another;
        The water rose to the top, and both of them could drink
    peacock; duck; Look at my feathers, and then look at yours; Then the river rose and covered the whole
        yard;
        The peacock's long tail was wet and heavy, and it could not swim. The duck swam up to it;
        The peacock held on to the duck and was carried to dry land
    deer; snail; I am gone before you have taken one step; They looked for the red berries on the hill;
        The deer ran past the bush three times and saw nothing. The snail looked under every leaf;
        It was the snail that found them, and there were enough for two""")
FABLE = plot("animal", (BOASTS,), """
    Once upon a time, a {proud} and a {humble} lived near each other in the same [forest|valley|meadow].
    There once was a {proud} that was very proud of itself. Its neighbor was a quiet {humble}.
    In a green valley there lived a {proud}. Not far away lived a {humble}.

    The {proud} talked about itself from morning to night. "{boast}," it said.
    "{boast}," said the {proud} every time they met.
    {One_day}, the {proud} laughed at the {humble}. "{boast}," it said.

    "We shall see," said the {humble}.
    The {humble} did not get angry. It only [smiled|nodded|went on with its work].
    "Maybe so," the {humble} answered, "but everybody is good at something."

    ¶

    {contest}.

    {turn}.

    {result}.

    ¶

    "I am sorry that I laughed at you," said the {proud}.
    The {proud} was ashamed. "You have taught me something today," it said.
    "You were right, and I was wrong," said the {proud} in a small voice.

    "Let us be friends," said the {humble}.
    "Forget it," said the {humble}. "It is a fine evening. Let us look at the stars."
    The {humble} was too kind to say, "I told you so."

    From that day on, the {proud} did not boast anymore.
    The one who is slow to speak is often the one who is wise.
    And ever since then, the {proud} and the {humble} have been friends.
    So the {proud} learned that nobody is too small to matter.""")

SEEDS = table("seed plant harvest dish", """
    sunflower; a flower as tall as a door; hundreds of seeds; bread with seeds on top
    pumpkin; a long green vine; one huge orange pumpkin; pumpkin soup
    bean; a plant that climbed to the top of its pole; a bowl full of beans; bean stew
    carrot; a bunch of feathery leaves; a carrot as long as {his} arm; a carrot cake
    strawberry; a small plant with white flowers; a basket of red berries; strawberry jam
    pea; a curly vine with pale flowers; a heap of fat green pods; a pot of pea soup
    tomato; a bush that smelled of summer; a bowl of red tomatoes; a big salad
    melon; a vine that ran over the whole bed; three round melons; cold melon soup
    corn; a stalk with golden hair; four yellow ears of corn; hot corn with butter
    onion; a clump of long thin leaves; an enormous onion; onion pie""")
GARDEN_TROUBLES = table("trouble remedy", """
    the days were hot, and the earth grew dry and hard; carried water from the well every evening
    snails came in the night and ate the first leaves; picked off the snails and took them to the next field
    weeds grew up all around it; pulled out every weed, one after another
    one night it was as cold as winter; covered it with an old blanket before dark
    crows came down and pecked at the earth; built a scarecrow with a straw hat
    a strong wind bent it to the ground; tied it to a stick with a bit of soft string""")
GARDEN = plot("either", (SEEDS, GARDEN_TROUBLES), """
    {open}

    {One_day}, {hero} found a {seed} seed. {He} dug a little hole and put it in.
    In spring, {adult} gave {him} a {seed} seed. "Take good care of it," {ahe} said.
    {hero} wanted to have a garden of {his} own. So {he} planted a {seed} seed in the dark, soft earth.

    {He} looked at the spot every morning, but nothing happened. "Why does it not grow?" {he} asked.
    {hero} sat down to wait. {He} waited one day, and two days, and three days. There was nothing to see.
    "Grow!" {he} said to the seed. But the seed did not grow any faster.

    "Good things take time," said {adult}.
    "You must be patient," said {adult}. "It is busy under the ground."

    ¶

    Then, {one_day}, there was a tiny green leaf. {Was_happy}.
    At last something green came out of the earth. "Hello, little plant!" said {hero}.

    But {trouble}. {hero} was worried. So {he} {remedy}.
    Then {trouble}. "I will save you," said {hero}. {He} {remedy}.

    Week after week it grew. In the end it was {plant}.
    {Soon} it was {plant}.

    ¶

    When it was time for the harvest, {hero} brought home {harvest}. It was more than {he} could eat alone.
    {One_day}, it was ready. {hero} could hardly believe {his} eyes when {he} carried home {harvest}.

    {adult} made {dish}, and all the neighbors came to eat.
    Together with {adult}, {he} made {dish} and invited {his} friend {friend}.
    {hero} shared it with {his} friend {friend}, and they made {dish}.

    "It tastes like [summer|sunshine]," said {hero}.
    {Was_proud}, for all of it had come from one small seed.
    {hero} kept one seed for the next year.
    "Next year," said {hero}, "I will plant a whole row."
    {Good_night}.""")

LURES = table("lure", """
    followed a blue butterfly
    ran after a rolling nut
    followed the smell of honey
    chased a leaf that danced in the wind
    followed a stick that floated down the stream
    ran after a shiny beetle
    went to find out where a strange song came from
    wanted to see what was behind the [next hill|last tree]""")
GUIDES = table("helper question memory follow", """
    owl; What do you hear when you are at home?; I hear water running over stones;
        listened. Far away there was the sound of water, and {he} walked toward it
    toad; What do you smell when you are at home?; I smell the mint that grows by our door;
        sniffed the air and followed the fresh smell of mint through the grass
    heron; What do you see when you are at home?; I see a tall tree with a broken top;
        climbed up on a rock. Far off, over the leaves, stood the tree with the broken top
    cricket; What does your mother sing in the evening?; I know her song by heart;
        sang it as loudly as {he} could. And from far away, {his} mother sang the second part
    snail; What was under your feet when you came?; There was mud all the way;
        looked down and found {his} own footprints, one after another, all the way back
    moth; Where does the moon stand over your home?; It stands above the round hill;
        looked for the round hill and walked straight toward the moon
    goose; Which way did the wind blow when you left?; It blew at my back;
        turned around and walked with the wind in {his} face""")
WAY_HOME = plot("animal", (LURES, GUIDES), """
    {open}

    "Do not go too far," {his} mother always said.
    {His} mother told {him} to stay close to home. But {hero} wanted to see the world.
    {He} knew every [stone|flower] around {his} home, and {he} wanted to see something new.

    {One_day}, {hero} {lure}. {He} went on and on.
    {One_day}, {he} {lure}, and {he} forgot to look back.

    ¶

    When {he} stopped, nothing looked the same. {He} was lost.
    {Soon} it grew dark, and {he} did not know where {he} was.
    Then {he} looked around. All the trees were strange. Which way was home?

    "Mother!" {he} called. But nobody answered. {Was_sad}.
    {He} ran this way and that way, but it only got worse.
    {He} sat down under a [fern|bush] and began to cry.

    ¶

    "Who is making so much noise?" asked a {helper}. "I am lost," said {hero}.
    Just then a {helper} came by. "Why are you so sad?" it asked. "I cannot find my home," said {hero}.
    "Are you lost?" asked an old {helper}. {hero} nodded.

    "{question}" asked the {helper}. "{memory}," said {hero}. "Then you know the way," said the {helper}.
    The {helper} thought for a while. "{question}" it asked. "{memory}," {he} answered.

    {hero} {follow}.
    "Of course!" said {hero}. "Thank you!" {He} {follow}.

    ¶

    And there was {his} mother! She held {him} tight. "I looked for you everywhere," she said.
    At last {he} saw {his} home. {His} mother came running and kissed {him} on the nose.
    {He} ran the last part of the way, right into {his} mother's arms.

    "I will never go so far alone again," said {hero}.
    "Next time, we will go together," said {his} mother.
    {Good_night}, close to {his} mother.
    The next day, {hero} brought the {helper} a [ripe berry|sweet apple] to say thank you.""")

STUCK_THINGS = table("toy how try try2 solve", """
    kite; the wind blew it into a tall tree; threw a stick at it, but the stick stayed up there too;
        tried to climb, but the lowest branch was too high; tied a rake to a broom and pulled the kite down by
        its tail
    ball; it rolled under the shed; stretched out {his} arm, but it was too short;
        pushed with a stick, and the ball rolled even farther; sent the little dog in, and it came out with
        the ball
    toy boat; it drifted in among the reeds; blew as hard as {he} could, but the boat did not move;
        threw stones to make waves, but they pushed it the wrong way;
        threw a stick on a long string over the boat and pulled it slowly to the shore
    straw hat; the wind put it on top of the barn; jumped and jumped, but the barn was too high;
        shook the wall, but the hat did not fall; took the garden hose and washed the hat down with a jet of
        water
    ball; it fell into a deep, narrow hole; reached in, but the hole was too deep;
        tried to lift it with two sticks, but it slipped; poured in one bucket of water after another,
        and the ball floated up to the top
    marble; it rolled behind the big closet; pulled at the closet, but it was too heavy;
        tried it with a ruler, but the ruler was too short; bent a wire into a hook and fished the marble out
    paper plane; it landed on the lamp; threw a sock at it, but the sock stayed on the lamp;
        stood on a chair, but {he} was still too small; waved a newspaper up and down until the plane sailed
        off
    bucket; it sank to the bottom of the well; tried to catch it with a rope, but the rope only got wet;
        wished very hard, but wishing did not help; tied a magnet to the rope, and clack, there was the bucket
    toy truck; it sank into the deep mud; pulled with one hand, but the truck did not come out;
        pulled with both hands and fell over backward; laid a board on the mud, knelt down, and wiggled it out
    little key; it fell through a crack in the floor; tried to reach it with one finger, but it was too far
        down;
        tried it with a spoon, but the crack was too thin; put a bit of honey on a thin stick, and the key
        stuck to it""")
STUCK = plot("child", (STUCK_THINGS,), """
    {open}

    {One_day}, {hero} and {his} friend {friend} were playing with a {toy}. But then {how}.
    {hero} and {his} friend {friend} had a {toy} with them {one_day}. Suddenly {how}.
    {hero} had a {toy}. {One_day}, {he} showed it to {his} friend {friend}. Then, before they knew it, {how}.

    "Oh no, the {toy}!" cried {friend}.
    "What do we do now?" asked {friend}.
    They looked at each other. Nobody laughed now.

    ¶

    {hero} {try}. Then {friend} {try2}.
    First {hero} {try}. After that, {friend} {try2}.

    "It is no use," said {friend}, and {fhe} sat down on the ground.
    "We will never get it back," said {friend}.
    {Was_sad}. But {he} did not give up.

    ¶

    "Wait," said {hero}. "Let me think." {He} thought until {his} head was warm. Then {he} {solve}.
    Then {hero} had an idea. {He} {solve}.
    "I know what we can do!" said {hero}. {He} ran off and came back. Then {he} {solve}.

    "Hooray!" shouted {friend}. "You are so clever!"
    {friend} jumped up and down. "It worked!" {fhe} shouted.

    "Two heads are better than one," said {hero}.
    {Was_proud}.
    From then on, they were very careful with the {toy}.
    {adult} laughed when {ahe} heard the story. "Thinking is stronger than pulling," {ahe} said.
    {Good_night}.""")

NOISES = table("noise where fear cause after", """
    Tap, tap, tap; at the window; a ghost; a branch that the wind pushed against the glass;
        tied the branch back with a ribbon
    Scratch, scratch; under the floor; a dragon; a family of mice at work on a new nest;
        put a bit of soft wool next to the hole
    Hoo, hoo; on the roof; a ghost; a young owl on the chimney; wished it a good night
    Drip, drop, drip; in the bathroom; a sea monster; a faucet that was not quite closed; turned it until it
        was quiet
    Creak, creak; on the stairs; a robber; the old dog, who was looking for its bone; found the bone and gave
        it to the dog
    Rattle, rattle; in the shed; a monster; a hedgehog who had fallen into a flower pot;
        tipped the pot and let the hedgehog walk out
    Thump, thump; in the closet; a giant; the cat, who had been shut in by mistake; opened the door and let
        the cat out
    Whoosh, whoosh; behind the curtain; a ghost; the night wind, for the window was open; closed the window
    Munch, munch; in the kitchen; a bear; {his} little brother with a cookie in each hand; sat down and had a
        cookie too
    Rustle, rustle; in the hall; a snake; a kitten inside a paper bag; pulled the kitten out and stroked its
        soft fur
    Buzz, buzz; in the toy box; a robot; a toy train that was still switched on; switched it off
    Ding, ding; outside in the dark; a lost ship; a goat with a bell, who had jumped over the fence;
        led the goat back to its stable""")
NOISE = plot("child", (NOISES,), """
    {open}

    One night, {hero} lay in bed and could not sleep.
    One dark night, {hero} woke up and did not know why.
    It was late, and the moon was shining through the window. {hero} was almost asleep.

    Then {he} heard something. "{noise}." It was {where}.
    "{noise}," it went {where}. {hero} sat up.
    "{noise}." What was that? It came again, {where}. "{noise}."

    "It must be {fear}!" {he} thought.
    {He} pulled the blanket over {his} head. "I think it is {fear}," {he} whispered to {his} teddy bear.
    {He} was sure that it was {fear}. {His} heart went boom, boom, boom.

    ¶

    But {hero} wanted to know. {He} took {his} flashlight and went on tiptoe, step by step.
    {He} woke {adult}. "There is {fear}!" {he} said. "Let us go and see," said {adult}, and {ahe} took {his}
        hand.
    {hero} was afraid, but {he} was curious too. {He} put on {his} slippers and took a wooden spoon.

    "Who is there?" {he} asked in a loud voice. Nobody answered.
    It was very dark, and the floor was cold.
    {hero} held {his} breath and looked.

    ¶

    It was not {fear} at all. It was only {cause}!
    And what did {he} see? {Cause}!

    {hero} laughed. {He} {after}.
    "So it was you!" {he} said. Then {he} {after}.

    Then {he} went back to bed, and {soon} {he} was asleep.
    "Things look bigger in the dark," {he} thought, and {he} closed {his} eyes.
    At breakfast, {he} told the story, and everybody laughed.
    After that, {hero} was not so afraid of strange sounds anymore.""")

GRANTERS = table("granter", """
    {hero} caught a fish with golden scales. "Let me go, and you have a wish," it said. So {he} let it go.
    {hero} rubbed an old brass lamp until it shone. Blue smoke came out. "Make a wish," said a deep voice.
    {hero} helped a tiny woman who was caught under a leaf. "You have one wish," she said.
    {hero} saw a star fall behind the garden wall. It was still warm. "Make a wish," it whispered.
    {hero} dropped a penny into the old well. "Thank you," said the well. "Now make a wish."
    {hero} found a white feather that shone like the moon. "Hold me and make a wish," it said.""")
WISHES = table("wish joy trouble", """
    to be as tall as a tree; {He} could look over all the roofs and shake hands with the birds;
        {he} could not get through the door anymore, and nobody could hug {him}
    that it would rain candy; All the children ran out with baskets and bowls;
        the streets were sticky, and the birds had nothing to drink
    to fly like a bird; {He} flew over the church and waved to the people;
        the wind blew {him} farther and farther away from home, and it was cold up there
    to talk with animals; The dog told {him} jokes, and the hens told {him} all the news;
        the crickets and mice talked all night long, and {he} could not sleep
    that every day would be {his} birthday; There was cake for breakfast, and there were presents on every
        chair;
        {he} was tired of cake, and nobody wanted to sing anymore
    to be invisible; {He} took a second helping of pudding, and nobody saw {him};
        nobody said good night to {him}, because nobody knew that {he} was there
    that the sun would never set; {He} could play outside as long as {he} liked;
        the flowers hung their heads, and everybody was too tired to smile
    that all {his} toys would come alive; The bears danced, and the little cars raced around the room;
        they jumped on the bed all night and would not stop fighting
    to be as small as a mouse; {He} slept in a matchbox and slid down a spoon;
        the cat looked at {him} with big hungry eyes
    to have a hundred puppies; They licked {his} hands and rolled over each other;
        they chewed all the shoes, and there was no place left to sit
    that everything would be made of chocolate; {He} ate a chair, a book, and half of the door;
        the sun came out, and the whole house began to melt""")
WISH = plot("child", (GRANTERS, WISHES), """
    {open}

    {One_day}, {granter}

    "I wish {wish}," said {hero} at once.
    {hero} thought for a moment. "I wish {wish}," {he} said.
    {He} did not have to think for long. "I wish {wish}!" {he} said.

    In a blink, the wish came true.
    "So be it," came the answer.
    And that is just what happened.

    ¶

    At first it was wonderful. {Joy}.
    What fun it was! {Joy}.
    {Joy}. {Was_happy}.

    But {soon} there was a problem. {Trouble}.
    But then {trouble}.
    {hero} had not thought of one thing. {Trouble}.

    ¶

    "I do not want this anymore," said {hero}. "Please, let everything be as it was before."
    {Was_sad}. "I wish I had never wished for that," {he} said.
    "Please help me," {he} begged. "I want my old life back."

    In the blink of an eye, all was as it had been.
    There was a flash of light, and {he} was standing in {his} own room again.
    {He} closed {his} eyes. When {he} opened them, everything was the same as always.

    {adult} called {him} to supper. It was only soup, but it was the best soup in the world.
    {hero} ran to {adult} and hugged {ahim}. "I have all that I need," {he} said.
    After that, {hero} was careful with {his} wishes.
    {Good_night}, and {he} did not wish for anything.""")

MAPS = table("found step step2", """
    inside an old book; to the big oak; under the stone that looks like a heart
    in a bottle on the beach; to the red boat; under the third post of the pier
    behind a loose brick; down the cellar stairs; in the corner where the barrels used to be
    in the pocket of an old coat; across the little bridge; between the two birch trees
    under the carpet in the attic; to the end of the garden; beside the wall where the ivy grows
    in a drawer of the big desk; past the well; among the roots of the dead tree
    under the lid of an old piano; through the gate; seven steps from the rose bush""")
CHESTS = table("content use", """
    a music box that still played a waltz; They danced to the music all evening
    a bag of glass marbles in all colors; They played with the marbles until dark
    twelve little wooden animals; They stood the animals in a row on the window sill
    a photograph of a child with a gap between the teeth; They hung the photograph on the wall
    a silver whistle on a chain; The whistle was so loud that all the dogs in the street came running
    a letter and two gold coins; With the coins they bought ice cream for everybody in the street
    a small brass telescope; That night they saw the mountains of the moon through the telescope
    a crown made of tin and glass; They took turns wearing the crown
    a tin full of old stamps; Every stamp showed a different country""")
TREASURE = plot("child", (MAPS, CHESTS), """
    {open}

    {One_day}, {hero} found a piece of paper {found}. It was a map!
    {hero} loved secrets. {One_day}, {he} found a yellow map {found}.
    It began {one_day}, when {hero} found an old map {found}.

    {He} showed it to {his} friend {friend}. "It is a treasure map!" said {friend}.
    {He} ran to {his} friend {friend}. "Look what I have!" {he} shouted.

    ¶

    "{Step}," {he} read. They went {step} and looked around.
    The first arrow led them {step}. It was quiet there.

    "Then it says: {step2}," said {friend}. There they began to dig.
    The map had a cross on it. The cross was {step2}. They took their shovels.
    Then {friend} turned the map around. "We held it upside down! It is {step2}," {fhe} said.

    They found [only a rusty nail|only an old shoe|nothing but roots]. "Maybe it is all a joke," said
        {friend}.
    It was hard work, and {friend} wanted to stop. "A little more," said {hero}.
    They worked for an hour. {His} arms were tired, and {fhis} hands were black.

    ¶

    Then there was a sound. Clunk! It was a box.
    And then they saw the corner of a wooden box.

    They opened it slowly. Inside they found {content}.
    The lid was heavy. "One, two, three!" they counted. In the box lay {content}.

    {adult} laughed when {ahe} saw it. "I hid that when I was as old as you," {ahe} said.
    They ran home to show it to {adult}. "So somebody found it at last!" said {adult}, who had drawn the map
        long ago.
    "Whose was it?" asked {friend}. "It was mine," said {adult}. "And now it is yours."

    {use}.
    {use}. {Good_night}.
    {use}. Then {hero} drew a new map for the next child.""")

FAVORS = table("helped need gift later back", """
    ant; had fallen into a puddle; held out a leaf, and the ant climbed up on it;
        {hero} was asleep in the grass, and a snake came near; bit {him} in the toe and woke {him} just in
        time
    bird; was weak and hungry; gave it all {his} bread;
        {hero} was lost in the woods; flew ahead from branch to branch and showed {him} the way
    beaver; had its tail caught under a log; rolled the log away;
        the water rose, and {hero} could not cross the river; cut down a tree, and the tree was a bridge
    spider; had lost its web in the wind; held two branches still while it made a new one;
        {his} coat was torn, and winter was coming; sewed it with a silver thread
    mole; had come out into the light and could not see; carried it to a patch of soft earth;
        stones fell down and shut {him} up in a cave; dug a tunnel and let {him} out
    bat; lay on the floor of the barn; lifted it up to a beam;
        {his} light went out in a dark cave; flew in front of {him} to the way out
    horse; had a stone in its foot; took the stone out with care;
        {hero} hurt {his} leg, far away from home; knelt down and carried {him} home on its back
    frog; sat in a pond that was almost dry; filled the pond with water from the well;
        {his} key fell into the deep lake; dived down and came up with the key
    goose; had a thorn in its wing; pulled out the thorn;
        a thief crept into the garden; made so much noise that the thief ran away
    dog; had nothing to drink on a hot day; gave it water out of {his} own cup;
        {his} little boat turned over on the lake; jumped in and pulled {him} to the shore""")
FAVOR = plot("child", (FAVORS,), """
    {open}

    {One_day}, {hero} met a {helped}. It {need}.
    On the way to [school|the market|the mill], {hero} saw a {helped}. It {need}.
    {Nice_day}, and {hero} was going for a walk. By the side of the path {he} saw a {helped}. It {need}.

    "Please help me," said the {helped}.
    "Will you help me?" asked the {helped} in a small voice.
    Other people walked by, but {hero} stopped.

    {hero} {gift}.
    {He} did not think twice. {He} {gift}.
    "Of course I will help you," said {hero}, and {he} {gift}.

    "I will not forget this," said the {helped}.
    "Thank you," said the {helped}. "Maybe I can help you too some day."
    {hero} smiled. {He} did not think that a {helped} could ever do anything for {him}.

    ¶

    Many weeks went by. Then, {one_day}, {later}.
    A year later, {later}.
    Winter came, and then spring. {hero} had almost forgotten about it. But {one_day}, {later}.

    {hero} did not know what to do.
    "Help!" {he} called. But there was nobody near.
    {He} was in trouble, and {he} was all alone.

    ¶

    But somebody had heard {him}. It was the {helped}! It {back}.
    Then, who came along? It was the {helped}! It {back}.

    "You helped me, and now I have helped you," said the {helped}.
    "Now we are even," said the {helped}.
    {hero} thanked it with all {his} heart.

    From that day on, the two of them were friends.
    So {hero} learned that a kind deed comes back to you.
    "One good turn deserves another," said {adult} when {ahe} heard about it.
    {Good_night}.""")

FOODS = table("food bit made", """
    cookies; cookie; a big tray of warm cookies
    pancakes; pancake; a tall stack of pancakes
    plums; plum; a basket of ripe plums
    cherries; cherry; a bowl of dark red cherries
    dumplings; dumpling; a steaming pot of dumplings
    blueberries; berry; a bucket of blueberries
    honey cakes; cake; a plate of little honey cakes
    muffins; muffin; a dozen muffins
    pears; pear; a box of sweet yellow pears
    nuts; nut; a sack of roasted nuts
    waffles; waffle; a plate of crisp waffles""")
TOO_MUCH = plot("either", (FOODS,), """
    {open}

    {hero} loved {food}. {He} could think of nothing better in the whole world.
    There was nothing that {he} liked more than {food}.
    "I could eat {food} all day long," {he} often said.

    ¶

    {One_day}, {adult} set {made} on the table. "These are for the party," {ahe} said. "Do not touch them."
    {One_day}, there was {made} in the kitchen. "Take one, and leave the rest for the others," said {adult}.

    When {adult} was gone, {hero} ate one. It was delicious.
    {hero} wanted to be good. But the smell was so sweet that {he} took one.

    "Just one more {bit}," {he} said. And then, "Just one more." {Soon} they were all gone.
    Then {he} took another {bit}, and another. Before {he} knew it, there was nothing left.
    "Nobody will miss one little {bit}," {he} thought. {He} thought so ten times. Then there were none.

    ¶

    But then {his} stomach began to hurt. "Ow, ow, ow!" {he} cried.
    {His} belly was as round as a ball, and it hurt. {He} had to lie down.
    Then {he} did not feel so well. {He} held {his} stomach and turned green.

    {adult} came back and saw what had happened. "Oh, {hero}," {ahe} said.
    "Where are the {food}?" asked {adult}. {hero} could only groan.

    "I am sorry," said {hero}. "I ate them all, and now there is nothing for the others."
    {hero} told the truth. "I could not stop," {he} said. {Was_sad}.

    ¶

    {adult} gave {him} a cup of tea and put {him} to bed. The next day, {he} felt better.
    It was a long night, but in the morning {he} was well again.

    {One_day}, {adult} brought home {made} again. This time {hero} gave them to the others first.
    A week later, {adult} brought {made} again. {hero} passed them around, and everybody got one.

    Then {he} ate one, slowly. It tasted better than all the ones before.
    {hero} had learned that enough is better than too much.
    {His} friend {friend} asked, "Do you want another {bit}?" {hero} laughed. "No, thank you," {he} said.""")

PLOTS = {
    "lost": LOST, "sharing": SHARING, "fear": FEAR, "rescue": RESCUE, "skill": SKILL, "gift": GIFT,
    "truth": TRUTH, "rain": RAIN, "new friend": NEW_FRIEND, "fable": FABLE, "garden": GARDEN,
    "way home": WAY_HOME, "stuck": STUCK, "noise": NOISE, "wish": WISH, "treasure": TREASURE, "favor": FAVOR,
    "too much": TOO_MUCH,
}

# what a conversation may say about a story: how to ask for it, and a question that it answers
TALK = {row["plot"]: row for row in table("plot request question answer", """
    lost; a {kind} who loses a {toy}; Where was the {toy}?; The {toy} was {spot}.
    sharing; a {kind} who learns to share; What did {friend} want to play with?; {Fhe} wanted to play with the
        {toy}.
    fear; a {kind} who is afraid of {fear}; Who helped {hero}?; {Adult} helped {him}.
    rescue; a {kind} who saves an animal; What animal did {hero} help?; {He} helped a {creature}.
    skill; a {kind} who wants to {skill}; What did {hero} learn?; {He} learned how to {skill}.
    gift; a birthday present; What did {hero} make for {adult}?; {He} made a {gift}.
    truth; telling the truth; What was broken?; {Adult}'s {thing} was broken.
    rain; a rainy day; What did {hero} and {friend} want to do at first?; They wanted to {plan}.
    new friend; a {kind} who makes a new friend; What was {friend} doing when {hero} met {fhim}?;
        {Fhe} was {doing}.
    fable; a {proud} and a {humble}; Who was proud?; The {proud} was proud.
    garden; a {kind} with a garden; What did {hero} plant?; {He} planted a {seed} seed.
    way home; a {kind} who gets lost; Who helped {hero} find the way home?; A {helper} helped {him}.
    stuck; two friends and a {toy}; Who had the good idea?; {hero} had the good idea.
    noise; a strange noise at night; What did {hero} think it was?; {He} thought that it was {fear}.
    wish; a wish that comes true; What did {hero} wish?; {He} wished {wish}.
    treasure; a treasure map; What was in the box?; They found {content}.
    favor; a {helped} that pays back a kind deed; Who helped {hero} in the end?; The {helped} helped {him}.
    too much; a {kind} who eats too much; What did {hero} eat?; {He} ate too many {food}.""")}

REQUESTS = lines("""
    Tell me a story about %s.
    Please write a short story about %s.
    Can you tell me a story about %s?
    I would like to hear a story about %s.
    Make up a story about %s.""")
GREETINGS = [tuple(line.split(" / ")) for line in lines("""
    Hello! / Hello! Shall I tell you a story, or do you have a question about numbers?
    Hi, how are you? / I am well, thank you. What can I do for you?
    Good morning! / Good morning! What would you like to hear today?
    Can you help me? / Of course. I can tell stories, and I can work out numbers.""")]
FAREWELLS = [tuple(line.split(" / ")) for line in lines("""
    Thank you! / You are welcome!
    That was nice. Thank you. / I am glad that you liked it.
    Goodbye! / Goodbye! Come again soon.""")]

# ----------------------------------------------------------------------------------------------
# word problems: the numbers to draw, the question, and the worked answer, in which {x = a + b} is computed

THINGS = """
    apples pears marbles shells stickers buttons cookies books pencils stones cards beads stamps nuts eggs
    coins crayons feathers pictures flowers balloons lemons toys acorns
""".split()
BOXES = "boxes bags baskets jars drawers bowls sacks crates".split()
PROBLEMS = table("numbers question solution", """
    a 2-60, b 2-60; {hero} has {a} {things}. {adult} gives {him} {b} more. How many {things} does {hero} have
        now?;
        {hero} has {x = a + b} {things} now.
    b 2-50, d 2-50, a = b + d; {hero} had {a} {things}. {He} gave {b} of them to {friend}. How many {things}
        were left?;
        There were {x = a - b} {things} left.
    a 2-12, b 2-12; {hero} has {a} {boxes}. In each of them there are {b} {things}. How many {things} are
        there?;
        There are {x = a * b} {things}.
    a 2-10, b 2-12, c = a * b; {hero} shares {c} {things} among {a} friends, so that each gets the same
        number.
        How many {things} does each friend get?; Each friend gets {x = c / a} {things}.
    a 5-40, b 2-30, s = a + b, c 2-6; {hero} found {a} {things} in the morning and {b} in the afternoon.
        Then {he} lost {c} of them. How many {things} does {he} have now?;
        {hero} found {x = a + b} {things}. After {he} lost {c}, {he} had {y = x - c}.
    a 2-40, b 2-30; {hero} has {a} {things}. {friend} has {b} more than {hero}. How many do they have
        together?;
        {friend} has {x = a + b} {things}. Together they have {y = a + x}.
    a 2-9, b 2-9, d 2-30, s = a * b, c = s + d; One of the {things} costs {a} cents. {hero} buys {b} of them
        and pays
        with {c} cents. How many cents does {he} get back?;
        {hero} has to pay {x = a * b} cents. {He} gets back {y = c - x} cents.
    a 2-12, b 2-9, d 3-60, s = a * b, c = s + d; {hero} reads {a} pages every day. {His} book has {c} pages.
        How many pages are left after {b} days?;
        In {b} days, {hero} reads {x = a * b} pages. Then {y = c - x} pages are left.
    a 3-30; {hero} has {a} {things}, and {friend} has twice as many. How many {things} do they have together?;
        {friend} has {x = a * 2} {things}. Together they have {y = a + x}.
    a 2-12, b 2-12; There are {a} sheep and {b} hens in the yard. How many legs do they have?;
        The sheep have {x = a * 4} legs. The hens have {y = b * 2} legs. Together they have {z = x + y} legs.
    a 2-9, b 3-9, c 2-5; {hero} plants {a} rows of beans with {b} beans in each row. Snails eat {c} of the
        plants.
        How many plants are left?; {hero} plants {x = a * b} beans. After the snails have eaten, {y = x - c}
        are left.
    a 5-12, b 2-6, c 2-9; {hero} is {a} years old. {friend} is {b} years older. How old will {friend} be in
        {c} years?;
        {friend} is {x = a + b} years old now. In {c} years, {fhe} will be {y = x + c}.
    a 2-20, c = a * 2; {adult} bakes {c} rolls. The family eats half of them. How many rolls are left?;
        Half of {c} is {x = c / 2}, so {c} - {x} = {a} rolls are left.
    a 2-9, b 2-8, c 2-20; {hero} saves {a} coins a week for {b} weeks. Then {adult} gives {him} {c} more
        coins.
        How many coins does {hero} have?;
        In {b} weeks, {hero} saves {x = a * b} coins. With the others, {he} has {y = x + c}.
    a 2-8, b 2-9, d 2-9, s = a * d, c = a * b, t = c + s; {hero} has {t} {things}. {He} gives {a} friends {d}
        each.
        How many {things} are left?; {hero} gives away {x = a * d} {things}. Then {y = t - x} are left.""")
