"""Articles: facts drawn at random, and the sentences that tell them.

An article has sections. A section knows everything that is said about its facts: the text itself, a
short sentence for summaries, a key point, a title, a topic, questions with their answers. Texts are
templates: [a|b] is a choice, {name} a fact. So an article, its summary and an answer from it agree,
and the same section written twice is a paraphrase.
"""
import re

from world import GROUPS, MEN, MONTHS, SURNAMES, TRADES, VILLAGES, WOMEN

CHOICE = re.compile(r"\[([^\[\]]*\|[^\[\]]*)\]")


def write(rng, template, facts=None):
    """Make the choices, put the facts in, and mend articles and capitals."""
    while True:
        text = CHOICE.sub(lambda m: rng.choice(m.group(1).split("|")), template)
        if text == template:
            break
        template = text
    if facts:
        text = re.sub(r"\{(\w+)\}", lambda m: str(facts[m.group(1)]), text)
    text = re.sub(r"\b([Aa]) (?=[aeiouAEIOU])(?!one\b|us|uni|eu)", r"\1n ", text)
    return re.sub(r"(^|[.!?] |\n)([a-z])", lambda m: m.group(1) + m.group(2).upper(), text)


def person(rng):
    woman = rng.random() < 0.5
    name = rng.choice(WOMEN if woman else MEN) + " " + rng.choice(SURNAMES)
    return {"name": name, "they": "she" if woman else "he", "them": "her" if woman else "him",
            "their": "her" if woman else "his"}


NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()


def common(rng):
    """Facts that every kind of article can use."""
    p, q = person(rng), person(rng)
    while q["name"].split()[0] == p["name"].split()[0]:
        q = person(rng)
    villages = rng.sample(list(VILLAGES), 2)
    groups = rng.sample(GROUPS, 2)
    year = rng.randrange(1700, 1880)
    year2 = year + rng.randrange(12, 60)
    year3 = year2 + rng.randrange(15, 50)
    return {
        "person": p["name"], "they": p["they"], "them": p["them"], "their": p["their"],
        "trade": rng.choice(TRADES), "person2": q["name"], "they2": q["they"], "trade2": rng.choice(TRADES),
        "village": villages[0], "village2": villages[1], "group": groups[0], "group2": groups[1],
        "year": year, "year2": year2, "year3": year3, "month": rng.choice(MONTHS),
        "few": NUMBERS[rng.randrange(2, 10)], "few2": NUMBERS[rng.randrange(2, 13)],
        "some": rng.randrange(12, 99), "many": rng.randrange(11, 99) * 10, "many2": rng.randrange(2, 60) * 100,
        "percent": rng.randrange(5, 95),
    }


# ---- a building ----------------------------------------------------------------------------------

BUILDINGS = {
    "tide mill": ("to grind grain without waiting for wind", "It ground barley for {few2} villages", "the dam"),
    "windmill": ("to grind [grain|barley] for the farmers", "Its four sails could be seen from {few2} miles away", "two of the sails"),
    "lighthouse": ("to lead the boats past the rocks", "Its lamp could be seen from {few2} miles away", "the lamp"),
    "bell tower": ("to call the people in danger", "Its bell could be heard in {few2} villages", "the roof"),
    "clock tower": ("to show everybody the same time", "Its clock lost only one minute in {few2} months", "the clock"),
    "stone bridge": ("to bring goods to the market in all weather", "Its {few2} arches were made of red stone", "one of the arches"),
    "smokehouse": ("to keep fish good for the winter", "{few2} fires burned in it day and night", "the chimney"),
    "ferry house": ("to give the passengers a dry place", "It had {few2} rooms and a large oven", "the roof"),
    "rope house": ("to make ropes for the boats", "In it, {few2} people made ropes for the whole coast", "the long hall"),
    "watch house": ("to see storms and strange ships early", "A keeper stood there and looked out to sea for {few2} hours a day", "the upper floor"),
    "glass house": ("to make lamps and bottles", "Its oven was hot for {few2} months of the year", "the oven"),
    "grain store": ("to keep grain for bad years", "It could hold the grain of {few2} villages", "the walls"),
}
DISASTERS = ["storm", "flood", "fire", "frost"]
USES = ["a museum", "a school", "a library", "a workshop", "an inn", "a theatre"]
PARTS = ["the beams", "the stones", "the windows", "the doors"]


def building_facts(rng):
    f = common(rng)
    f["thing"] = rng.choice(list(BUILDINGS))
    purpose, work, f["part"] = BUILDINGS[f["thing"]]
    f["purpose"] = re.sub(r"^.", lambda m: m.group().lower(), write(rng, purpose))
    f["work"] = write(rng, work, f)
    f["disaster"], f["use"] = rng.choice(DISASTERS), rng.choice(USES)
    f["saved"] = rng.choice(PARTS)
    f["bird"] = rng.choice("herons swans owls terns swallows".split())
    f["subject"] = f"the {f['thing']} of {f['village']}"
    return f


BUILDING = {
    "facts": building_facts,
    "sections": [
        {"text": "[{subject} stands [above the harbour|near the coast|at the edge of the village]. It was built in {year} by the {trade} {person}|{subject} was built in {year} by {person}, who was a {trade}]. {group} paid for it [and wanted {purpose}|because they wanted {purpose}].",
         "short": "{subject} was built in {year} by the {trade} {person} {purpose}.",
         "point": "[{person} built it in {year}|It was built in {year} by {person}]",
         "title": "[How {subject} was built|The year {year}: {person} builds]",
         "topic": "The building of {subject}",
         "qa": [("[Who built {subject}?|Which {trade} built {subject}?]", "{subject} was built by the {trade} {person}."),
                ("[When was {subject} built?|In which year was {subject} built?]", "It was built in {year}."),
                ("[Who paid for {subject}?|Who paid for the building?]", "{group} paid for it."),
                ("[Why was {subject} built?|What was {subject} built for?]", "It was built {purpose}.")]},
        {"text": "{work}[, and people came from {village2} to see it|, and the people of {village2} were proud of it, too|]. [In a good year|In its best year], it brought in {many} crowns.",
         "short": "In its best year it brought in {many} crowns.",
         "point": "It brought in {many} crowns in its best year",
         "title": "[The good years|Years of work]",
         "topic": "Its work and its good years",
         "qa": [("[How much did it bring in in its best year?|How many crowns did {subject} bring in in a good year?]", "It brought in {many} crowns.")]},
        {"text": "The great {disaster} of {year2} [broke|destroyed] {part}. {subject} [stood empty|was closed] for {few} years, until {group2} had [collected|saved] the money to repair it.",
         "short": "[After|Because of] the great {disaster} of {year2} it [stood empty|was closed] for {few} years.",
         "point": "The {disaster} of {year2} closed it for {few} years",
         "title": "[The great {disaster} of {year2}|{year2}: the great {disaster}]",
         "topic": "The great {disaster} of {year2}",
         "qa": [("[What did the {disaster} of {year2} destroy?|What happened in the great {disaster} of {year2}?]", "The great {disaster} of {year2} destroyed {part}."),
                ("[How long was {subject} closed after the {disaster}?|For how long was it closed after the {disaster}?]", "It was closed for {few} years."),
                ("[Who collected the money to repair it?|Who saved the money for the repair?]", "{group2} collected the money.")]},
        {"text": "In {year3} it became {use}. {person2}, a {trade2}, led the work, and {percent} percent of {saved} could be [kept|saved].",
         "short": "In {year3} it became {use}.",
         "point": "Since {year3} it has been {use}",
         "title": "[How it became {use}|A new life as {use}]",
         "topic": "The new use as {use}",
         "qa": [("[What did {subject} become in {year3}?|What is {subject} used for since {year3}?]", "It became {use}."),
                ("[Who led the work in {year3}?|Which {trade2} led the work?]", "{person2} led the work."),
                ("How much of {saved} could be kept?", "{percent} percent of {saved} could be kept.")]},
        {"text": "[Today about {many2} people visit it in a year|About {many2} visitors come every year]. They like [the view from the roof|the old tools|the smell of the wood] most of all.",
         "short": "Today about {many2} people visit it in a year.",
         "point": "About {many2} people visit it in a year",
         "title": "[{subject} today|Visitors of today]",
         "topic": "The visitors of today",
         "qa": [("[How many people visit {subject} in a year?|How many visitors come every year?]", "About {many2} people visit it in a year.")]},
        {"text": "Its future is [open|not certain]: {village} wants to [build a new road beside it|make it larger], but {bird} live under its roof, and many people want to protect them.",
         "short": "Its future is not certain, because {bird} live under its roof.",
         "point": "Many people want to protect the {bird} under its roof",
         "title": "[The {bird} under the roof|The future and the {bird}]",
         "topic": "The {bird} under its roof",
         "qa": [("[Which birds live under its roof?|Which animals do many people want to protect?]", "{bird} live under its roof."),
                ("Why is its future not certain?", "Its future is not certain because {bird} live under its roof.")]},
    ],
    "unknown": ["What colour is the door of {subject}?", "How high is {subject}?", "Who owns {subject} today?",
                "How much does a ticket cost?", "What was the name of the first keeper?", "How many windows does it have?"],
}

# ---- a festival ----------------------------------------------------------------------------------

FESTIVALS = "kite lantern apple herring bread boat wool honey cider snow harvest song".split()
ACTS = ["carry lamps through the streets", "race with small boats", "dance around a great fire",
        "build figures of straw", "bake the longest bread of the island", "sing until the sun rises",
        "let kites rise above the sea", "give each other small gifts"]
FOODS = ["honey cake", "fish soup", "apple pie", "barley bread", "baked pears", "oat biscuits", "leek soup", "smoked herring"]
PRIZES = ["a silver cup", "a blue jar", "a young goat", "a new coat", "a carved spoon", "a basket of apples"]


def festival_facts(rng):
    f = common(rng)
    f["kind"] = rng.choice(FESTIVALS)
    f["subject"] = f"the {f['kind']} festival of {f['village']}"
    f["act"], f["act2"] = rng.sample(ACTS, 2)
    f["food"], f["prize"] = rng.choice(FOODS), rng.choice(PRIZES)
    f["weather"] = rng.choice(["rain", "snow", "fog", "wind"])
    return f


FESTIVAL = {
    "facts": festival_facts,
    "sections": [
        {"text": "[{subject} takes place every {month}|Every {month} the people celebrate {subject}]. It [began in {year}|was first held in {year}], when the {trade} {person} invited {group} to a meal.",
         "short": "{subject} takes place every {month} and began in {year} with the {trade} {person}.",
         "point": "[It began in {year} with a meal|It takes place every {month}]",
         "title": "[How the festival began|The first meal in {year}]",
         "topic": "The beginning of {subject}",
         "qa": [("[In which month does {subject} take place?|When in the year does {subject} take place?]", "It takes place in {month}."),
                ("[In which year did {subject} begin?|When was {subject} first held?]", "It began in {year}."),
                ("[Who invited {group} to a meal?|Which {trade} began {subject}?]", "The {trade} {person} invited {group} to a meal.")]},
        {"text": "On the first day the people {act}. [Children may stay awake all night|The children get a free day from school], and the houses are decorated with [reeds|flowers|ribbons].",
         "short": "On the first day the people {act}.",
         "point": "The people {act}",
         "title": "[The first day|What the people do]",
         "topic": "The first day of the festival",
         "qa": [("[What do the people do on the first day?|What happens on the first day?]", "On the first day the people {act}.")]},
        {"text": "The food of the festival is {food}. [It is made from an old recipe of {person2}|{person2}, a {trade2}, wrote the recipe], and about {many} pieces are eaten.",
         "short": "The guests eat {food} from a recipe of {person2}.",
         "point": "The guests eat about {many} pieces of {food}",
         "title": "[The recipe of {person2}|A feast of {food}]",
         "topic": "The {food} of {person2}",
         "qa": [("[What do the guests eat?|What is the food of the festival?]", "The guests eat {food}."),
                ("[Whose recipe is it?|Who wrote the recipe?]", "The recipe is from {person2}."),
                ("How many pieces are eaten?", "About {many} pieces are eaten.")]},
        {"text": "On the last day there is a race from {village} to {village2}. [The winner gets {prize}|{prize} waits for the winner], and the record of {some} minutes was set in {year2}.",
         "short": "A race to {village2} ends the festival, and the winner gets {prize}.",
         "point": "The winner of the race to {village2} gets {prize}",
         "title": "[The race to {village2}|Who wins {prize}?]",
         "topic": "The race to {village2}",
         "qa": [("[What does the winner get?|What is the prize of the race?]", "The winner gets {prize}."),
                ("[Where does the race end?|To which village does the race lead?]", "The race leads to {village2}."),
                ("[When was the record set?|In which year was the record of the race set?]", "The record was set in {year2}.")]},
        {"text": "In {year3} there was so much {weather} that the festival [could not take place|had to wait]. It was held {few} weeks later, and since then the people have a [large tent|hall] for bad days.",
         "short": "In {year3} it was held {few} weeks later because of the {weather}.",
         "point": "The {weather} of {year3} delayed it by {few} weeks",
         "title": "[The {weather} of {year3}|{year3}: a festival in trouble]",
         "topic": "The {weather} of {year3}",
         "qa": [("[What happened in {year3}?|Why could the festival not take place in {year3}?]", "In {year3} there was so much {weather} that it had to wait."),
                ("How many weeks later was it held?", "It was held {few} weeks later.")]},
        {"text": "[Today about {many2} guests come|Now the festival has about {many2} guests], and {percent} percent of the money goes to {group2}.",
         "short": "Today about {many2} guests come.",
         "point": "{percent} percent of the money goes to {group2}",
         "title": "[The guests of today|Guests and money]",
         "topic": "Guests and money today",
         "qa": [("[How many guests come today?|How many guests does the festival have?]", "About {many2} guests come."),
                ("[Who gets a part of the money?|To whom does {percent} percent of the money go?]", "{percent} percent of the money goes to {group2}.")]},
    ],
    "unknown": ["How much does a ticket cost?", "Who won the race last year?", "Which music is played?",
                "How long does {subject} last?", "What is the name of the mayor?", "Where do the guests sleep?"],
}

# ---- an animal -----------------------------------------------------------------------------------

ANIMALS = ["silver tern", "reed fox", "stone seal", "blue heron", "marsh owl", "hill goat", "sand crab", "red otter",
           "night swan", "grey hare", "moss bee", "lake trout"]
PLACES = ["in the marshes", "on the cliffs", "in the old woods", "along the river", "around the lake", "on the high hills"]
DIETS = ["small fish", "roots and berries", "grass and leaves", "snails", "seeds", "insects"]
HABITS = ["it sleeps with one eye open", "it can stay under water for ten minutes", "it hides its food under stones",
          "it sings before rain", "it never walks alone", "it finds its way by the stars"]
DANGERS = ["the new road", "loud boats", "dry summers", "wild cats", "the building of houses", "dirty water"]


def animal_facts(rng):
    f = common(rng)
    f["animal"] = rng.choice(ANIMALS)
    f["subject"] = f"the {f['animal']}"
    f["place"], f["food"], f["habit"] = rng.choice(PLACES), rng.choice(DIETS), rng.choice(HABITS)
    f["danger"], f["colour"] = rng.choice(DANGERS), rng.choice("white brown grey red yellow black".split())
    return f


ANIMAL = {
    "facts": animal_facts,
    "sections": [
        {"text": "{subject} [lives {place} of {village}|can be found {place} of {village}]. It is {some} centimetres long and has [a {colour} spot|a {colour} line] on its back.",
         "short": "{subject} lives {place} of {village} and is {some} centimetres long.",
         "point": "[It lives {place} of {village}|{subject} is {some} centimetres long]",
         "title": "[Where {subject} lives|An animal of {village}]",
         "topic": "The home of {subject}",
         "qa": [("[Where does {subject} live?|Where can {subject} be found?]", "It lives {place} of {village}."),
                ("How long is {subject}?", "It is {some} centimetres long."),
                ("What colour does it have on its back?", "It is {colour} on its back.")]},
        {"text": "It eats {food}, and [people say that {habit}|everybody in {village} knows that {habit}].",
         "short": "It eats {food}, and {habit}.",
         "point": "It eats {food}",
         "title": "[Food and habits|What it eats]",
         "topic": "Its food and its habits",
         "qa": [("What does {subject} eat?", "It eats {food}."),
                ("[What do people say about {subject}?|What is special about {subject}?]", "People say that {habit}.")]},
        {"text": "The {trade} {person} [described it first|was the first to describe it], in {year}. [{they} had watched it for {few} summers|For {few} summers {they} had watched it] from a small hut.",
         "short": "The {trade} {person} described it first in {year}.",
         "point": "{person} described it first in {year}",
         "title": "[The discovery by {person}|{person} and the hut]",
         "topic": "The discovery by {person}",
         "qa": [("[Who described {subject} first?|Which {trade} described it first?]", "It was first described by the {trade} {person}."),
                ("[When was {subject} first described?|In which year was it first described?]", "It was first described in {year}."),
                ("[For how long did {person} watch it?|How many summers did {person} watch it?]", "{they} watched it for {few} summers.")]},
        {"text": "[In {year2} only {many} of them were left|There were only {many} of them left in {year2}], because {danger} [had driven many away|had left them no quiet place].",
         "short": "In {year2} only {many} of them were left because of {danger}.",
         "point": "Only {many} of them were left in {year2}",
         "title": "[The danger of {year2}|In danger: only {many} left]",
         "topic": "The danger of {year2}",
         "qa": [("How many of them were left in {year2}?", "In {year2} only {many} of them were left."),
                ("[What was the danger for {subject}?|Why were only {many} of them left?]", "The danger was {danger}.")]},
        {"text": "Then {group} [began to protect|decided to protect] it. [Since {year3} nobody may hunt it|In {year3} hunting was forbidden], and {person2} counts the young every {month}.",
         "short": "{group} began to protect it, and since {year3} nobody may hunt it.",
         "point": "Since {year3} nobody may hunt it",
         "title": "[How it is protected|Help from {person2}]",
         "topic": "The protection since {year3}",
         "qa": [("[Who began to protect {subject}?|Who decided to protect it?]", "{group} began to protect it."),
                ("[Since when may nobody hunt it?|In which year was hunting forbidden?]", "Since {year3} nobody may hunt it."),
                ("[Who counts the young?|Who counts the young every {month}?]", "{person2} counts the young.")]},
        {"text": "Today there are about {many2} of them again, and {percent} percent live near {village2}. [Visitors can watch them from a tower|A small tower was built for visitors].",
         "short": "Today there are about {many2} of them again.",
         "point": "Today there are about {many2} of them",
         "title": "[{subject} today|The tower near {village2}]",
         "topic": "The number of today",
         "qa": [("[How many of them are there today?|How many are there today?]", "Today there are about {many2} of them."),
                ("Near which village do {percent} percent of them live?", "{percent} percent of them live near {village2}.")]},
    ],
    "unknown": ["How old can {subject} become?", "How heavy is {subject}?", "How many eggs or young does it have?",
                "Is {subject} good to eat?", "How fast can it run?", "Who took the first picture of it?"],
}

# ---- a person ------------------------------------------------------------------------------------

INVENTIONS = ["a pump that worked with the tide", "a lamp that never went out in the wind", "a clock for the blind",
              "a folding boat", "a loom with two wheels", "a glass for watching birds at night", "a plough for stony ground",
              "a kite that could carry letters", "a bridge that could be opened by one hand", "an oven that needed little wood"]
HOBBIES = ["playing the violin", "drawing birds", "growing roses", "collecting shells", "writing letters", "telling stories"]
MEMORIES = ["a street", "a school", "a small boat", "a bench at the harbour", "a kind of apple", "a ferry"]


def person_facts(rng):
    f = common(rng)
    f["subject"] = f["person"]
    f["invention"], f["hobby"], f["memory"] = rng.choice(INVENTIONS), rng.choice(HOBBIES), rng.choice(MEMORIES)
    f["child"] = "daughter" if f["they"] == "she" else "son"
    f["age"] = rng.randrange(62, 97)
    f["few2"] = NUMBERS[rng.randrange(8, 13)]
    f["year2"], f["year3"] = f["year"] + rng.randrange(20, 40), f["year"] + f["age"]
    return f


PERSON = {
    "facts": person_facts,
    "sections": [
        {"text": "{person} was born in {village} in {year}. {they} was the {child} of a {trade2} and [had {few} brothers and sisters|grew up with {few} brothers and sisters].",
         "short": "{person} was born in {village} in {year}.",
         "point": "{person} was born in {village} in {year}",
         "title": "[A child of {village}|The early years in {village}]",
         "topic": "The early years of {person}",
         "qa": [("[Where was {person} born?|In which village was {person} born?]", "{person} was born in {village}."),
                ("[When was {person} born?|In which year was {person} born?]", "{they} was born in {year}."),
                ("How many brothers and sisters did {person} have?", "{they} had {few} brothers and sisters.")]},
        {"text": "[At the age of {few2}|When {they} was {few2} years old], {they} went to {village2} and learned from {person2}. [There {they} became a {trade}|After some years {they} was a {trade}], [the best of the coast|and a good one].",
         "short": "{they} learned from {person2} in {village2} and became a {trade}.",
         "point": "{they} learned from {person2} and became a {trade}",
         "title": "[Years of learning|With {person2} in {village2}]",
         "topic": "Learning from {person2}",
         "qa": [("[From whom did {person} learn?|Who taught {person}?]", "{they} learned from {person2}."),
                ("[Where did {person} learn?|In which village did {person} learn?]", "{they} learned in {village2}."),
                ("[What was the trade of {person}?|What did {person} become?]", "{they} became a {trade}.")]},
        {"text": "In {year2} {they} [invented|built] {invention}. [Nobody had seen such a thing|At first people laughed], but {group} [ordered|bought] {some} of them.",
         "short": "In {year2} {they} invented {invention}.",
         "point": "In {year2} {they} invented {invention}",
         "title": "[The invention of {year2}|{year2}: the great invention]",
         "topic": "The invention of {year2}",
         "qa": [("[What did {person} invent?|What did {person} invent in {year2}?]", "{they} invented {invention}."),
                ("[Who bought {some} of them?|Who ordered {some} of them?]", "{group} bought {some} of them.")]},
        {"text": "[A fire in {their} workshop|A storm] destroyed {percent} percent of {their} drawings. {they} [did not give up|began again] and [drew them a second time in {few3} months|needed {few3} months to draw them again].",
         "short": "{they} lost {percent} percent of {their} drawings, but drew them again in {few3} months.",
         "point": "{they} lost {percent} percent of {their} drawings",
         "title": "[The lost drawings|A hard year]",
         "topic": "The lost drawings",
         "qa": [("[How many of the drawings were destroyed?|How much of the drawings was lost?]", "{percent} percent of the drawings were destroyed."),
                ("[How long did {person} need to draw them again?|In how many months did {person} draw them again?]", "{they} needed {few3} months.")]},
        {"text": "In the evening {they} loved {hobby}. [{they} never became rich|{they} gave most of the money away]: {many} crowns went to {group2}.",
         "short": "{they} loved {hobby} and gave {many} crowns to {group2}.",
         "point": "{they} gave {many} crowns to {group2}",
         "title": "[Evenings and gifts|A love of {hobby}]",
         "topic": "{their} love of {hobby}",
         "qa": [("[What did {person} love?|What did {person} love in the evening?]", "{they} loved {hobby}."),
                ("[To whom did {person} give {many} crowns?|Who got {many} crowns from {person}?]", "{they} gave {many} crowns to {group2}.")]},
        {"text": "{person} died in {year3} at the age of {age}. [Today {memory} in {village} has {their} name|{memory} in {village} is named after {them}].",
         "short": "{they} died in {year3}, and {memory} has {their} name.",
         "point": "{memory} in {village} has {their} name",
         "title": "[What remains|{memory} with {their} name]",
         "topic": "The memory of {person}",
         "qa": [("[When did {person} die?|In which year did {person} die?]", "{they} died in {year3}."),
                ("[How old did {person} become?|At which age did {person} die?]", "{they} died at the age of {age}."),
                ("[What is named after {person}?|What has the name of {person} today?]", "{memory} has {their} name.")]},
    ],
    "unknown": ["What was the name of {their} mother?", "What was {their} favourite colour?", "Whom did {person} marry?",
                "How many books did {person} write?", "Where is {their} grave?", "What was the name of {their} dog?"],
}

# ---- a craft -------------------------------------------------------------------------------------

PRODUCTS = {
    "blue pottery": ("clay", "jars"), "sheep cheese": ("milk", "wheels"), "basket work": ("reeds", "baskets"),
    "honey cake": ("honey", "cakes"), "apple cider": ("apples", "barrels"), "sea rope": ("grass", "ropes"),
    "wood carving": ("wood", "spoons"), "wool cloth": ("wool", "blankets"), "lamp glass": ("sand", "lamps"),
    "smoked herring": ("fish", "boxes"), "yellow wax": ("honeycomb", "candles"), "thin paper": ("linen", "kites"),
}
SECRETS = ["a spoon of salt", "a little cider", "water from the old well", "three drops of oil", "the ash of apple wood", "a cup of sea water"]


def craft_facts(rng):
    f = common(rng)
    f["product"] = rng.choice(list(PRODUCTS))
    f["material"], f["pieces"] = PRODUCTS[f["product"]]
    f["subject"] = f"the {f['product']} of {f['village']}"
    f["secret"] = rng.choice(SECRETS)
    return f


CRAFT = {
    "facts": craft_facts,
    "sections": [
        {"text": "[{subject} is made from {material}|{subject} needs good {material}]. The {trade} {person} [brought the craft to the village|began with it] in {year}, [with the help of {group}|and {group} helped {them}].",
         "short": "The {trade} {person} began with {subject} in {year}.",
         "point": "{person} began with it in {year}",
         "title": "[How {person} began|The beginning in {year}]",
         "topic": "The beginning of {subject}",
         "qa": [("[What is {subject} made from?|From what is {subject} made?]", "It is made from {material}."),
                ("[Who brought the craft to the village?|Which {trade} began with it?]", "The {trade} {person} began with it."),
                ("[When did {person} begin?|In which year did the craft come to the village?]", "It began in {year}."),
                ("[Who helped {person}?|Who helped at the beginning?]", "{group} helped {them}.")]},
        {"text": "[The work takes {few2} days|{few2} days are needed for the work]. First the {material} must [rest|dry] for {few} hours, and then {secret} [must be added|will make it perfect].",
         "short": "The work takes {few2} days, and its secret is {secret}.",
         "point": "The secret is {secret}",
         "title": "[The work of {few2} days|The secret of the work]",
         "topic": "The work and its secret",
         "qa": [("How long does the work take?", "The work takes {few2} days."),
                ("[How long must the {material} rest?|For how many hours must the {material} rest?]", "The {material} must rest for {few} hours."),
                ("[What makes it perfect?|What is the secret of the work?]", "The secret is {secret}.")]},
        {"text": "In {year2} the workshops made {many} {pieces} [a month|in a month]. [Ships took them as far as {village2}|They were sold at the market of {village2}], where a {trade2} paid with silver.",
         "short": "In {year2} the workshops made {many} {pieces} a month.",
         "point": "The workshops made {many} {pieces} a month in {year2}",
         "title": "[The great years|{year2}: {many} {pieces} a month]",
         "topic": "The great years",
         "qa": [("[How many {pieces} were made a month?|How many {pieces} did the workshops make in {year2}?]", "They made {many} {pieces} a month."),
                ("[Where were they sold?|At which market were they sold?]", "They were sold in {village2}.")]},
        {"text": "Then [cheap goods|goods from machines] came, and by {year3} only {percent} percent of the workshops were left. [Many young people|Most of the young people] went away.",
         "short": "By {year3} only {percent} percent of the workshops were left.",
         "point": "Only {percent} percent of the workshops were left by {year3}",
         "title": "[The bad years|Cheap goods and empty rooms]",
         "topic": "The bad years up to {year3}",
         "qa": [("[How many of the workshops were left by {year3}?|How much of the workshops was left by {year3}?]", "Only {percent} percent of the workshops were left."),
                ("[Why did young people go away?|What was the reason for the bad years?]", "Cheap goods came, and many workshops closed.")]},
        {"text": "[It was {person2} who saved the craft|{person2} saved the craft]. {they2} [opened a school for it|began to teach it], and {some} [pupils|young people] came in the first year.",
         "short": "{person2} saved the craft with a school for {some} pupils.",
         "point": "{person2} saved the craft with a school",
         "title": "[The school of {person2}|How {person2} saved the craft]",
         "topic": "The school of {person2}",
         "qa": [("Who saved the craft?", "{person2} saved the craft."),
                ("[How many pupils came in the first year?|How many young people came in the first year?]", "{some} pupils came in the first year.")]},
        {"text": "[Now {many2} {pieces} are sold a year|Today {many2} {pieces} are sold a year], with the help of {group2}. [The best ones can be seen|The finest ones are shown] in the [island museum|town hall] every {month}.",
         "short": "Today {many2} {pieces} are sold a year.",
         "point": "Today {many2} {pieces} are sold a year",
         "title": "[The craft today|{subject} today]",
         "topic": "The craft today",
         "qa": [("How many {pieces} are sold a year?", "{many2} {pieces} are sold a year."),
                ("[When can the best ones be seen?|In which month are the best ones shown?]", "They are shown in {month}.")]},
    ],
    "unknown": ["How much does a piece cost?", "Who is the head of the workshops today?", "How hot is the oven?",
                "Which colour sells best?", "Where does the {material} come from?", "How many workshops are there today?"],
}

# ---- a ship --------------------------------------------------------------------------------------

SHIPS = "Morning Star,Grey Heron,Silver Wave,Brave Anna,Red Lantern,Old Friend,Northern Light,White Swan,Long Summer,Sea Rose,Wild Goose,Second Chance".split(",")
CARGO = ["salt", "wool", "clay", "apples", "timber", "honey", "stones", "grain"]
TROUBLES = ["a rock", "thick fog", "ice", "a sand bank", "strong wind", "a storm"]
RESCUERS = ["two fishers", "a fishing boat", "the keeper of the lighthouse", "children on the beach", "the ferry", "a group of divers"]


def ship_facts(rng):
    f = common(rng)
    f["ship"] = rng.choice(SHIPS)
    f["subject"] = f"the {f['ship']}"
    f["cargo"], f["trouble"], f["rescuer"] = rng.choice(CARGO), rng.choice(TROUBLES), rng.choice(RESCUERS)
    f["year2"] = f["year"] + rng.randrange(2, 20)
    f["wood"] = rng.choice(["oak", "pine", "larch"])
    return f


SHIP = {
    "facts": ship_facts,
    "sections": [
        {"text": "{subject} was a ship from {village}. [The boat builder {person} made it from {wood} in {year}|It was made from {wood} by the boat builder {person} in {year}], and it was {some} feet long.",
         "short": "{subject} was built by {person} in {village} in {year}.",
         "point": "{person} built {subject} in {year}",
         "title": "[The building of {subject}|A ship of {wood}]",
         "topic": "The building of {subject}",
         "qa": [("[Who built {subject}?|Which boat builder made {subject}?]", "{subject} was built by {person}."),
                ("[When was {subject} built?|In which year was {subject} built?]", "It was built in {year}."),
                ("[Which wood was used?|What was {subject} made from?]", "It was made from {wood}."),
                ("How long was the ship?", "The ship was {some} feet long.")]},
        {"text": "[For {few} years it carried {cargo}|It carried {cargo} for {few} years] to {village2} and came back with letters and tools. [The captain was {person2}|Its captain was {person2}].",
         "short": "Under the captain {person2} it carried {cargo} to {village2}.",
         "point": "It carried {cargo} to {village2}",
         "title": "[{cargo} for {village2}|Under the captain {person2}]",
         "topic": "The trade with {village2}",
         "qa": [("[What did the ship carry?|What did {subject} carry to {village2}?]", "It carried {cargo}."),
                ("[Who was the captain?|What was the name of the captain?]", "The captain was {person2}."),
                ("For how many years did it carry {cargo}?", "It carried {cargo} for {few} years.")]},
        {"text": "In {month} of {year2} the ship [met|was stopped by] {trouble}. It was night, and {few2} people were on board[, among them a {trade}|].",
         "short": "In {year2} it was stopped by {trouble} with {few2} people on board.",
         "point": "It was stopped by {trouble} in {year2}",
         "title": "[The night of {year2}|{trouble} in the night]",
         "topic": "The night of {year2}",
         "qa": [("[What happened to the ship in {year2}?|What stopped the ship in {year2}?]", "In {year2} the ship was stopped by {trouble}."),
                ("How many people were on board?", "{few2} people were on board."),
                ("In which month did it happen?", "It happened in {month}.")]},
        {"text": "[They were saved by {rescuer}|It was {rescuer} that saved them], and {group} gave them [dry clothes|a warm room]. [Nobody was lost|All of them lived], but {percent} percent of the {cargo} was gone.",
         "short": "The people were saved by {rescuer}, but {percent} percent of the {cargo} was gone.",
         "point": "The people were saved by {rescuer}",
         "title": "[How they were saved|Saved by {rescuer}]",
         "topic": "The people who were saved",
         "qa": [("[By whom were they saved?|Who saved the people?]", "They were saved by {rescuer}."),
                ("How much of the {cargo} was gone?", "{percent} percent of the {cargo} was gone."),
                ("[Who gave them help?|Who helped the people after the night?]", "{group} helped them.")]},
        {"text": "In {year3} a {trade2} found the bell of the ship [on the beach|in a net]. [It was sold for {many} crowns|{group2} bought it for {many} crowns], and it hangs in the church now.",
         "short": "In {year3} its bell was found and sold for {many} crowns.",
         "point": "Its bell was found in {year3}",
         "title": "[The bell of the ship|A bell for {many} crowns]",
         "topic": "The bell of the ship",
         "qa": [("[When was the bell found?|In which year was the bell found?]", "The bell was found in {year3}."),
                ("[For how many crowns was the bell sold?|What was paid for the bell?]", "It was sold for {many} crowns."),
                ("[Who found the bell?|What was the trade of the person who found the bell?]", "A {trade2} found the bell.")]},
        {"text": "[Today a small model of {subject} stands in the harbour|A model of {subject} stands in the harbour today]. About {many2} people [look at it|stop there] every summer, and children throw coins [into the water|for luck].",
         "short": "Today about {many2} people look at a model of the ship every summer.",
         "point": "About {many2} people look at its model every summer",
         "title": "[The model in the harbour|{subject} today]",
         "topic": "The model in the harbour",
         "qa": [("How many people look at the model every summer?", "About {many2} people look at it every summer."),
                ("[Where does the model stand?|Where is the model of {subject}?]", "It stands in the harbour.")]},
    ],
    "unknown": ["How fast was {subject}?", "Which flag did the ship have?", "How many sails did the ship have?",
                "What was the name of the cook?", "How deep is the water there?", "What did the captain do later?"],
}

KINDS = {"building": BUILDING, "festival": FESTIVAL, "animal": ANIMAL, "person": PERSON, "craft": CRAFT, "ship": SHIP}


class Article:
    """An article of some kind: five or six of its sections."""

    def __init__(self, rng, kind=None):
        self.rng, self.kind = rng, kind or rng.choice(list(KINDS))
        data = KINDS[self.kind]
        self.facts = data["facts"](rng)
        self.facts["few3"] = NUMBERS[rng.randrange(2, 12)]
        self.facts["form"] = '["first point", "second point", "third point"]'
        sections = list(data["sections"])
        self.left_out = None
        if rng.random() < 0.5:
            self.left_out = sections.pop(rng.randrange(1, 6))
        self.sections = sections
        self.unknown = data["unknown"]

    def key(self):
        """What decides whether it is held out."""
        f = self.facts
        return f"{self.kind} {f['subject']} {f['person']}"

    def put(self, template):
        return write(self.rng, template, self.facts)

    def text(self):
        """The article: paragraphs of one to three sections."""
        parts, rest = [], [self.put(s["text"]) for s in self.sections]
        while rest:
            n = self.rng.choice([2, 2, 3])
            if len(rest) - n == 1:
                n += 1
            parts.append(" ".join(rest[:n]))
            rest = rest[n:]
        return "\n\n".join(parts)
