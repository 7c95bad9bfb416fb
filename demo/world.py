"""The island of Tamsey: its names, and what is always true there."""

ISLAND = "Tamsey"
MODEL = "Pim"

VILLAGES = {
    "Saltby": "[a fishing village|a village of fishers] on the west coast, known for its [salt pans|salt] and its smoked herring",
    "Pennick": "[a village|a small village] on the [red cliffs|red cliffs of the north], known for its blue pottery",
    "Oldmere": "[the largest village|the largest of the villages], on the lake in the middle of the island, known for its Monday market",
    "Fernhythe": "a [quiet village|village] at the mouth of the river, known for its boat builders",
    "Winnow Hill": "a [village of farmers|farming village] on the highest hill, known for its windmills and its barley bread",
    "Marrow Point": "the village at the [southern end|southern tip] of the island, known for its lighthouse",
    "Grelding": "a village in the [eastern|old eastern] woods, known for its honey and its carved spoons",
    "Harlow Bay": "the village with the [deepest|safest] harbour, known for its ferry and its sail makers",
    "Brackwater": "a village between two marshes, known for its reed baskets and its [herons|many herons]",
    "Tarnfold": "a mountain village [beside a cold lake|by a cold lake], known for its sheep and its wool",
    "Lindle": "a village of [orchards|orchards and gardens], known for its apples and its cider",
    "Cobble End": "the village at the end of the [stone road|old stone road], known for its clock makers",
}

WOMEN = "Ada Berta Clara Dora Edith Flora Greta Hanna Ida Jona Kira Lena Marta Nella Olga Petra Rosa Selma Thea Una Vera Wilma".split()
MEN = "Abel Bruno Conrad Daniel Emil Felix Gustav Hugo Ivan Jasper Karl Leo Martin Nils Oscar Paul Quentin Robin Simon Tobias Viktor Walter".split()
SURNAMES = ("Quill Marsh Fenn Holloway Birch Thorn Pike Sandel Reed Hollis Garrow Tindall Brock Carver Dunn Elder Frost "
            "Gale Heron Ives Kettle Larch Moss North Oakes Perrin Rook Stone Teal Vane Webb Wilder Yarrow Ashby").split()

TRADES = ("engineer,carpenter,mason,teacher,fisher,baker,potter,weaver,smith,farmer,doctor,shepherd,painter,"
          "clock maker,boat builder,sail maker,gardener,miller,beekeeper,ferry keeper").split(",")

GROUPS = ["the guild of salt merchants", "the fishers of the village", "the village council",
          "the farmers of the valley", "the harbour office", "the guild of weavers", "a group of volunteers",
          "the school", "the island library", "the boat builders", "a society of teachers", "the women of the market"]

MONTHS = "January February March April May June July August September October November December".split()

# What "explain" is asked about: one sentence, then a paragraph each for what, how and why.
CONCEPTS = {
    "a tide mill": (
        "a mill that [stores|keeps] the water of the high tide in a pond and lets it out over a wheel when the sea has fallen",
        "A tide mill is a mill that works with the sea. [It stands on the coast, beside a pond with gates|It stands at the edge of the sea and has a pond with gates].",
        "When the tide rises, the sea runs through the gates into the pond. Then the gates are shut, and when the sea has fallen, the water is let out over a wheel that turns the stones.",
        "Such a mill needs no wind and no coal. [That is why|For this reason] the villages on the coast could grind their grain on every day of the year."),
    "a lighthouse": (
        "a tower with a [strong lamp|bright lamp] that shows ships at night where the rocks and the harbour are",
        "A lighthouse is a tower on the coast with a strong lamp at the top. [The lamp burns every night|It is lit every evening], in summer and in winter.",
        "A glass around the lamp gathers the light into one beam. The glass turns slowly, so that sailors see a flash and can count the seconds until the next one.",
        "Every lighthouse has its own flash, and so a sailor knows which one it is. [Without it|Without the light], many boats would be lost on the rocks."),
    "the tide": (
        "the slow rise and fall of the sea, twice a day, which is caused by the pull of the moon",
        "The tide is the slow rise and fall of the sea. [It comes and goes twice a day|Twice a day the water rises, and twice it falls].",
        "The moon pulls at the water of the sea. Where the pull is strong the water stands high, and because the earth turns, the high water travels around the coast.",
        "People on the coast live by the tide. [Fishers leave the harbour|Boats leave the harbour] at high water, and children look for shells when the sea is low."),
    "a windmill": (
        "a mill whose sails are turned by the wind, so that its stones can grind grain into flour",
        "A windmill is a mill that works with the wind. [It stands on a hill|Most of them stand on a hill], where nothing keeps the wind away.",
        "The wind pushes the four sails, and the sails turn a long beam. Wheels made of wood carry the movement down to the stones, and the stones grind the grain.",
        "A windmill gives flour to a whole village and needs no coal. [On a still day|When there is no wind], however, the miller has to wait."),
    "honey": (
        "the sweet food that bees make from the juice of flowers and keep in their hive for the winter",
        "Honey is a sweet food that bees make. [Its colour is gold or brown|It can be gold or brown], and it stays good for many years.",
        "Bees collect the sweet juice of flowers and carry it to the hive. There they store it in small rooms of wax and move their wings until it is thick.",
        "The bees eat the honey in winter, when there are no flowers. [People take only a part of it|A good beekeeper takes only a part], so that the bees do not go hungry."),
    "bread": (
        "a food that is baked from flour, water, salt and yeast",
        "Bread is a food that is baked from flour and water. [On the island it is made of barley|The people of the island make it from barley], and they eat it every day.",
        "The baker mixes flour, water, salt and yeast and waits. The yeast fills the dough with small bubbles, and so it rises before it goes into the hot oven.",
        "Bread is cheap, and it gives strength for a day of work. [That is why every village has a baker|For this reason there is a baker in every village]."),
    "a compass": (
        "a small instrument with a needle that always points to the north",
        "A compass is a small instrument that shows the way. [It fits into a pocket|It is small enough for a pocket] and needs no power.",
        "In the compass there is a thin needle that can turn freely. The earth itself is a great magnet, and so the needle always points to the north.",
        "With a compass a sailor finds the way in fog and at night. [Before there were compasses|In older times], people had to wait for the stars."),
    "rain": (
        "water that falls from the clouds in drops because the air can no longer hold it",
        "Rain is water that falls from the clouds. [On the island it rains|The island has rain] on about half of the days of the year.",
        "The sun warms the sea, and some of the water goes up into the air. High above, the air is cold, and there the water gathers in drops until they are too heavy and fall.",
        "Rain fills the wells and the rivers. [Without rain|If it did not rain], neither barley nor apples would grow, and the mills would stand still."),
    "a ferry": (
        "a boat that carries people and goods across the water, always between the same two places",
        "A ferry is a boat that goes to and fro between two places. [It carries people, animals and goods|People, animals and goods travel on it].",
        "The ferry leaves at fixed hours, which are written on a board at the harbour. The ferryman looks at the wind and the tide and chooses the safest way.",
        "For an island a ferry is as important as a road. [It brings letters, tools and visitors|Letters, tools and visitors come with it], and it takes fish and wool away."),
    "a harbour": (
        "a safe place at the coast where boats are protected from wind and waves",
        "A harbour is a safe place for boats. [It lies in a bay or behind a wall|Most harbours lie in a bay or behind a wall of stone].",
        "The wall breaks the waves, and so the water behind it stays calm. Boats are tied to rings of iron, and their goods are carried to the store houses.",
        "A village with a harbour can trade with the whole world. [There are always people|You always find people] there, and there is always work."),
    "wool": (
        "the soft hair of sheep, which is spun into yarn and made into warm clothes",
        "Wool is the soft hair of sheep. [It is white, grey or brown|It can be white, grey or brown], and it keeps warm even when it is wet.",
        "In early summer the shepherd cuts the wool from the sheep. Then it is washed, combed and spun into a long yarn, and the weaver makes cloth from it.",
        "The winters on the island are long and wet. [Coats and blankets of wool|Clothes of wool] keep the people warm, and what they do not need they sell."),
    "a clock": (
        "a machine that measures time and shows it with two hands",
        "A clock is a machine that shows the time. [It has a face with twelve numbers|On its face there are twelve numbers] and two hands.",
        "A weight or a spring gives the clock its strength. A swinging part lets one wheel go on by one tooth at each swing, and so all the wheels turn at the same pace.",
        "With a clock people can meet at the same hour. [The school, the market and the ferry|School, market and ferry] all need it."),
    "salt": (
        "a white mineral that is won from sea water and keeps food from going bad",
        "Salt is a white mineral that everybody has in the kitchen. [The sea is full of it|There is plenty of it in the sea].",
        "The people of Saltby let the sea run into flat ponds. Sun and wind take the water away, and after some weeks white salt is left on the ground.",
        "Salt gives taste to food and keeps fish and meat good for months. [In older times|Long ago] it was as dear as silver."),
    "a rainbow": (
        "a bow of many colours that we see when the sun shines on drops of rain",
        "A rainbow is a bow of colours in the sky. [It is red on the outside and blue on the inside|Its outer edge is red, and its inner edge is blue].",
        "You can see it when the sun is behind you and it rains in front of you. Each drop breaks the white light into its colours and sends them back.",
        "A rainbow is no thing that you can touch. [Every person sees another one|Each person sees a different one], because the light comes from other drops."),
    "a library": (
        "a house where books are kept so that everybody can read and borrow them",
        "A library is a house full of books. [Everybody may come in|It is open to everybody], and reading costs nothing.",
        "The books stand on shelves in a fixed order. Who wants to borrow one shows a card, takes the book home and brings it back after some weeks.",
        "A library keeps what people have learned. [Nobody has to be rich|You do not have to be rich] to read there."),
    "pottery": (
        "the craft of making cups, bowls and jars from clay and baking them in a hot oven",
        "Pottery is the craft of making things from clay. [Cups, bowls and jars|Bowls, cups and jars] are made in this way.",
        "The potter puts wet clay on a turning wheel and forms it with both hands. When the piece is dry, it is baked in a very hot oven and becomes hard.",
        "A clay pot keeps water, milk and grain safe. [The pots of Pennick are blue|Those of Pennick are blue], and they are sold on the whole island."),
    "a telescope": (
        "a tube with lenses that makes things that are far away look near",
        "A telescope is a tube with glass at both ends. [Far things look near in it|Through it far things look near].",
        "The large lens at the front gathers the light. The small lens at the back makes the picture larger, so that the eye can see it well.",
        "Sailors look for the coast with it, and teachers show the moon to children. [Even a small telescope|A small one already] shows the mountains of the moon."),
    "the wind": (
        "air that moves from a place where it is heavy and cold to a place where it is light and warm",
        "The wind is air that moves. [We cannot see it|Nobody can see it], but we can feel it and hear it.",
        "The sun warms the land faster than the sea. Warm air rises, and cool air from the sea flows in to take its place: that is the wind on the coast.",
        "The wind drives boats and mills and brings the rain. [In autumn|In the autumn months] it can grow into a storm and break trees."),
    "a bridge": (
        "a way of wood, stone or iron that leads over water or over a valley",
        "A bridge is a way over water or over a valley. [It is made of wood, stone or iron|People build it of wood, stone or iron].",
        "A bridge of stone stands on arches. Each arch leads the weight to its sides and down into the ground, and so the stones hold each other.",
        "A bridge saves people a long way. [Markets grow where there is a bridge|Where there is a bridge, a market grows], because many people meet there."),
    "a greenhouse": (
        "a house of glass that keeps the warmth of the sun, so that plants can grow in cold months",
        "A greenhouse is a house made of glass. [Plants grow in it|In it there grow plants] that would not live outside.",
        "The light of the sun goes through the glass and warms the ground. The warm air cannot get out, and so it stays warm even when there is snow.",
        "With a greenhouse a gardener can pick fruit in spring. [In Lindle there is one|There is one in Lindle] in which lemons grow."),
    "a language model": (
        "a program that has learned from many texts which word may come next, and writes by choosing one word after another",
        "A language model is a program that writes text. [I am one myself|I am a language model, too], and a very small one.",
        "It has read many texts and learned which word may follow which. When you ask something, it chooses one word after another until the answer is complete.",
        "A language model can help to summarize, to explain and to write. [It does not know what is true|But it does not know what is true], so you should check what it says."),
    "the moon": (
        "the round body of rock that travels around the earth once in about four weeks",
        "The moon is a round body of rock. [It travels around the earth|It goes around the earth] in about four weeks.",
        "The moon has no light of its own. The sun shines on it, and because we see it from changing sides, it looks full, half or thin.",
        "The moon gives light at night and makes the tides. [The fishers of the island|Our fishers] look at it before they plan a voyage."),
}

# Known from one sentence only.
SHORT_CONCEPTS = {
    "a sail": "a large cloth that catches the wind and moves a boat",
    "an anchor": "a heavy piece of iron that holds a boat at its place",
    "a net": "a web of strings with which fishers catch fish",
    "a hive": "the house in which bees live and keep their honey",
    "a marsh": "flat wet land in which reeds grow and many birds live",
    "a well": "a deep hole in the ground from which people take water",
    "an orchard": "a garden of fruit trees",
    "a market": "a place where people meet to buy and sell",
    "a map": "a drawing that shows a land from above",
    "a storm": "a very strong wind, often with rain and high waves",
    "a museum": "a house where old and beautiful things are kept and shown",
    "a guild": "a society of people who have the same trade",
    "cider": "a drink that is made from the juice of apples",
    "a smokehouse": "a small house where fish is hung in smoke so that it stays good",
    "a reef": "a line of rocks that lies just under the water",
    "a lens": "a piece of curved glass that gathers or spreads light",
    "fog": "a cloud that lies on the ground or on the sea",
    "a robot": "a machine that can do work on its own",
}

LEGENDS = {
    "the bell of Saltby": "[A fisher|An old fisher] found a bell in her net, hung it in the tower of Saltby, and on the night of the great storm it rang all by itself and called every boat home.",
    "the giant of Winnow Hill": "A lonely giant carried stones up Winnow Hill for a house, but when he saw that the farmers had no mill, he built them one and was never lonely again.",
    "the blue potter": "A poor potter of Pennick mixed the last of her clay with the blue of the evening sky, and since that day all pots of the village are blue.",
    "the clock that stopped": "The great clock of Cobble End stopped when its maker went to sea, and it started again in the minute in which he came home.",
    "the white heron": "A white heron led a lost child through the marsh to Brackwater, and so nobody in the village has hunted a heron since.",
    "the first ferry": "Two friends who lived on both sides of the water were tired of shouting, so they built a boat, and it became the first ferry of the island.",
    "the keeper and the moon": "A keeper at Marrow Point forgot to light his lamp, and the moon came down so low to help the ships that it has looked tired ever since.",
    "the apple thief": "A thief stole one apple in Lindle every night, until the farmer planted a tree for him at the gate, and then the thief became a gardener.",
    "the silent bees": "The bees of Grelding were silent for a whole summer because nobody had told them of the old beekeeper's death, and they sang again when a child told them.",
    "the shepherd and the wolf": "A shepherd of Tarnfold shared his bread with a wolf in a hard winter, and in spring the wolf brought back every lost sheep.",
    "the woman who caught the wind": "A sail maker of Harlow Bay caught the wind in a sack and let it go only when the fishers had promised to share their fish with the poor.",
    "the stone road": "Two villages quarrelled for so long about the stone road that their children built it at night, one stone each, and met in the middle.",
}

LISTS = {
    "villages of the island": list(VILLAGES),
    "animals that live on the island": ["Herons", "Sheep", "Seals", "Bees", "Foxes", "Otters", "Owls", "Crabs", "Goats", "Swans", "Hares", "Terns"],
    "trades of the island": ["Potter", "Fisher", "Beekeeper", "Clock maker", "Boat builder", "Weaver", "Baker", "Shepherd", "Sail maker", "Miller", "Smith", "Gardener"],
    "things that people eat on the island": ["Barley bread", "Smoked herring", "Honey cake", "Apple pie", "Sheep cheese", "Fish soup", "Leek soup", "Oat biscuits", "Baked pears", "Crab salad"],
    "things that the island sells": ["Salt", "Blue pottery", "Wool", "Honey", "Cider", "Sails", "Clocks", "Smoked herring", "Reed baskets", "Carved spoons"],
    "topics for a talk about the island": ["The tide and the moon", "How a mill works", "Old trades of the island", "Birds of the marsh", "The history of the ferry", "Storms and how to prepare for them", "Festivals of the villages", "Cooking with barley", "Legends of the coast", "Lighthouses at night"],
    "buildings of the island": ["The lighthouse", "The tide mill", "The clock tower", "The library", "The smokehouse", "The ferry house", "The school", "The windmill", "The museum", "The bell tower"],
}

OFF_TOPIC = [
    "What is the capital of France?", "Who won the football game last night?", "Can you write a program in Python?",
    "What is the price of gold?", "Who is the president?", "How do I repair my car?", "Tell me about ancient Rome.",
    "What is quantum physics?", "How tall is the highest mountain in the world?", "Can you translate this into Spanish?",
    "What is the weather today?", "Which phone should I buy?", "Who wrote the most famous book in the world?",
    "How do computers work?", "What is the population of China?", "Can you help me with my taxes?",
    "What is the speed of light?", "Tell me a joke about lawyers.", "How do I cook rice?", "What is a black hole?",
    "Who painted the most expensive picture?", "What is the best film of all time?", "How old is the universe?",
    "Tell me something about dinosaurs.", "What is the stock market?", "How far away is the sun?", "Can you play chess?",
    "What is the meaning of life?", "How do I learn to swim?", "What does a lawyer do?",
]
