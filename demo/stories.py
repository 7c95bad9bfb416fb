"""Science fiction on the island: plots in scenes, each scene with several tellings."""
from articles import person, write
from world import TRADES, VILLAGES

# {name}: the hero; {friend}; {they}/{their}/{them}: the hero's; {trade}, {village}; {n}, {n2}: numbers
PLOTS = [
    {"hook": "who gets a message from the future",
     "titles": ["The Message", "Eleven Days Early", "A Voice on the Radio", "The Letter from Tomorrow"],
     "scenes": [
         ["{name} was a {trade} in {village}, and every evening {they} listened to the old radio. [On a night in {month}|One night in {month}] it spoke with {their} own voice.",
          "The radio of {name}, a {trade} in {village}, had been silent for {n} years. Then, one night in {month}, it began to speak, and the voice was {their} own."],
         ["\"[Do not take the boat on Friday|Do not go out on Friday],\" it said. \"I am you, {n2} days from now. The sea will rise, and there is not much time.\"",
          "\"Listen to me,\" said the voice. \"I am you, {n2} days older. On Friday the sea will rise, and nobody in {village} knows it yet.\""],
         ["{name} ran to {friend}, who [repaired|built] machines. \"A radio cannot hear the future,\" said {friend}. \"But it knew the name of my first dog,\" said {name}, \"and nobody else knows it.\"",
          "In the morning {name} told {friend} of it. {friend} laughed at first. \"Then ask the voice what I will say tomorrow,\" {friend2_they} said, and the next day every word of it was true."],
         ["So they went from house to house. [Some people laughed|Many people did not believe them], but the ferryman did not, and soon carts full of beds and bread rolled up the hill.",
          "They rang the bell and told everybody. Half of the village went up the hill with them, and the other half followed when the water in the harbour suddenly fell."],
         ["On Friday the sea came. It took {n} boats and the old pier, but [it took no one with it|not a single person was lost].",
          "The wave came on Friday at noon. It broke the pier and filled the cellars, but on the hill all people of {village} stood together and were safe."],
         ["Now one thing was left to do. {n2} days later {name} sat down at the radio, pressed the red button and said, \"Do not be afraid. I am you.\"",
          "{name} waited {n2} days. Then {they} turned on the radio and spoke into the silence, because somebody on the other side was waiting for {their} voice."]]},
    {"hook": "who finds a robot on the beach",
     "titles": ["The Robot on the Beach", "A Guest of Iron", "What the Tide Brought", "Number Seven"],
     "scenes": [
         ["After the storm {name}, a {trade} from {village}, went down to the beach to look for wood. Between the stones lay a robot, and there was a crab in its hand.",
          "The tide often brought bottles and ropes to {village}. This time it brought a robot. {name}, a {trade}, found it in the sand and heard it hum."],
         ["\"[Where am I?|Where have I landed?]\" it asked. \"On the island of Tamsey,\" said {name}. \"Then I have come {n} miles too far,\" said the robot, \"and about {n2} years too late.\"",
          "{name} cleaned its eyes with a cloth. \"Thank you,\" said the robot. \"I was made to count stars, but my ship fell into the sea {n2} years ago.\""],
         ["{name} took it home. It learned to [bake bread|mend nets|carry water], and in the evening it told {friend} and the children about cities between the stars.",
          "The robot stayed. It helped {friend} to [mend the roof|paint the boat|bring in the apples], it never slept, and it asked a hundred questions a day."],
         ["But every night it stood on the hill and looked up. \"It is homesick,\" said {friend}. \"Can iron be homesick?\" asked {name}. Nobody knew.",
          "One night {name} saw it on the cliff. \"I can hear them,\" said the robot. \"They are calling my number, and I am not strong enough to answer.\""],
         ["So the whole village helped. They put the mirror of the lighthouse on a cart, pulled it up the hill and sent a light to the sky, {n} times long and {n} times short.",
          "Then {friend} had an idea. They hung wire from the bell tower to the mill, and the tower became an antenna. The robot spoke into it for {n} hours."],
         ["In the first week of {month} a silver ship came down on the water, very softly. \"Come with me,\" said the robot. \"I have nets to mend,\" said {name}, and they both laughed. Since then one star above {village} blinks every evening, and {name} waves to it.",
          "The answer came in {month}: a small ship with an open door. The robot gave {name} its last spare hand and went. It still writes, and the letters fall from the sky in boxes of iron."]]},
    {"hook": "who builds a machine that can stop time",
     "titles": ["The Still Hour", "The Clock of {village}", "One More Minute", "The Machine in the Cellar"],
     "scenes": [
         ["{name}, a {trade} in {village}, never had enough time. So {they} built a machine of {n} wheels in the cellar, and on a cold day in {month} {they} pulled the lever.",
          "For {n2} years {name}, a {trade} in {village}, had worked on a machine in the cellar. In {month} it was ready, and {they} pulled the lever."],
         ["[Everything became silent|There was no sound any more]. The waves stood still like glass, a gull hung above the roof, and the smoke over {village} did not move.",
          "Outside the rain stopped in the middle of the air. A cat hung above the wall, between two steps, and every clock in {village} showed the same minute."],
         ["At first it was wonderful. {name} slept, read {n} books and finished all {their} work, and when {they} let time go on, nobody had noticed anything.",
          "{name} walked through the silent streets. {they} mended the roof of the school, put flowers on every table and came home before the same minute had passed."],
         ["But {friend} noticed. \"[Your hair is grey|You look tired and old],\" {friend2_they} said. \"You were younger yesterday.\" {name} looked into the mirror and was afraid.",
          "\"You have grown older,\" said {friend} one morning. \"How many hours does your day have?\" {name} could not lie and told {friend2_them} everything."],
         ["That night a fire broke out at the harbour. \"Once more,\" said {name}, \"and then never again.\" {they} stopped time and carried {n2} people out of the flames, one after another.",
          "Then the dam broke, and the water rushed down to the village. \"Use it one last time,\" said {friend}. {name} stopped time and carried every child of {village} up the hill."],
         ["It took what felt like a year. When the waves moved again, everybody was alive, and {name} had white hair. {they} broke the machine with a hammer and said, \"An hour is long enough if you do not spend it alone.\"",
          "When it was done, {name} took the machine apart and gave each of its wheels to a friend. \"Now each of you has a piece of my time,\" {they} said, \"and that is where it belongs.\""]]},
    {"hook": "who discovers a light under the sea",
     "titles": ["The Light Below", "A Lamp under the Sea", "The Deep Village", "Under the Reef"],
     "scenes": [
         ["{name}, a {trade} in {village}, could not sleep. [From the window|From the cliff] {they} saw a green light far below the water, and it went on and off like a lighthouse.",
          "It was in {month} that {name}, a {trade} from {village}, saw the light for the first time. It shone under the water, green and calm, and it moved."],
         ["{friend} had a diving bell of copper. \"It has not been wet for {n2} years,\" {friend2_they} said, but they brought it to the boat and went down, {n} fathoms and more.",
          "\"It may be a wreck,\" said {friend}. \"A wreck does not blink,\" said {name}. They built a boat with a lid of glass and let it sink, slowly, on a long rope."],
         ["At the bottom stood houses of shell, and behind the windows there were lamps. A person with silver skin came out and knocked at the glass, very politely.",
          "There was a village under the sea. It had streets and gardens of weed, and in the middle stood a tower with the green lamp. {n} silver people looked up at them."],
         ["They had no common language, but they could draw. With a stone the stranger drew the moon, the tide and a broken wheel. \"[Their mill is broken|It is their tide mill],\" said {name}. \"They are asking for help.\"",
          "One of them wrote signs on a stone: a wheel, a crack, and {n2} small figures without air. \"The machine that gives them air is broken,\" said {friend}. \"That is why they called us.\""],
         ["For {n} days {name} and {friend} worked, above and below. The smith made a new wheel, the children carried stones, and at last the wheel turned again.",
          "They went home and told everybody. All of {village} worked day and night on a new wheel of oak, and after {n} days they let it down on a rope."],
         ["The green light went out, and then it came back, bright and white. Since then [no boat of {village} has been lost|the fishers of {village} have never lost a boat], because in every storm a lamp under the sea shows them the way home.",
          "On the next morning there was a gift on the beach: a lamp of shell that needs no oil. It hangs in {village} to this day, and when it blinks, somebody below says good night."]]},
    {"hook": "who travels to the moon in a small boat",
     "titles": ["To the Moon by Boat", "The Highest Tide", "A Boat for the Sky", "The Moon Voyage"],
     "scenes": [
         ["Everybody in {village} knew that the moon pulls at the sea. Only {name}, a {trade}, asked: \"If it pulls at the water, why should it not pull at a boat?\"",
          "{name}, a {trade} from {village}, had read every book about the moon. \"If the moon can lift the sea,\" {they} said, \"then it can lift me, too.\""],
         ["With the help of {friend} {they} built a boat of {n} thin boards and a sail of silver. \"It is too light for the sea,\" said {friend}. \"That is the idea,\" said {name}.",
          "{friend} brought glass, wax and {n} barrels of air, and after {n2} weeks the boat was ready. It was so light that it had to be tied to a stone."],
         ["In {month} came the highest tide of the year. The water rose, the boat rose, and when the water stopped, the boat did not.",
          "They waited for the highest tide in {month}. At midnight {name} cut the rope, and the boat climbed slowly over the roofs of {village}."],
         ["After {n2} days {they} landed in white dust. [Nobody was there|It was very quiet], but in the dust there was an old anchor, and on it {they} read: \"Too heavy to go home.\"",
          "The moon was grey and silent. {name} collected {n} stones and found the trace of another boat. Somebody had been there before and had left a letter in a bottle."],
         ["{name} understood. To go home {they} had to become light, so {they} threw away the stones, the tools and even {their} boots, until the earth began to pull.",
          "\"Take nothing with you,\" it said there, \"and the earth will call you home.\" So {name} put all the stones back, lay down in the empty boat and waited."],
         ["The boat came down in the harbour of {village} like a leaf. \"What have you brought?\" asked {friend}. \"A story,\" said {name}, \"and it weighs nothing.\"",
          "On a clear morning {friend} saw a small boat in the sky. {name} came home with empty hands, but from that day on {they} told the children of the white dust, and they never grew tired of it."]]},
    {"hook": "who talks with a machine in the lighthouse",
     "titles": ["The Keeper of Iron", "The Machine in the Tower", "Who Keeps the Light?", "The Thinking Lamp"],
     "scenes": [
         ["When the old keeper had died, a machine was put into the lighthouse of {village}. It had {n} eyes and no name, and {name}, a {trade}, had to bring it oil every week.",
          "Nobody wanted to keep the lighthouse of {village} any more, so they put a thinking machine there. Only {name}, a {trade}, went up to it, with oil and a newspaper."],
         ["\"[What is it like outside?|How is the village?]\" the machine asked. {name} told it of the market and the rain, and each week {they} stayed a little longer.",
          "At first they talked about the weather. Later the machine asked why people sing, and {name} sang {n} songs for it, because that was easier than an answer."],
         ["In {month} a letter came. \"The machine is too slow,\" it said. \"In {n2} days it will be switched off.\" {name} did not know how to tell it, but the machine could read {their} face.",
          "Then {friend} came with news. \"They have bought a new lamp that needs no mind,\" {friend2_they} said. \"In {n2} days they will switch the old machine off.\""],
         ["On the last night a storm broke, and the new lamp went out at once. \"Let me do it,\" said the machine. It turned the great glass with its own strength, hour after hour.",
          "But before that day the great storm came. The cables broke, and it was dark. \"I have a little power left,\" said the machine, \"and {n2} boats are out there.\""],
         ["{n2} boats came home that night. In the morning the machine was cold, and only one of its eyes was still glowing. {name} put a blanket around it, although {they} knew that it was iron.",
          "It counted the boats aloud, one after another, and when the last one was safe, it became silent. {name} ran down to {friend} and called, \"Bring oil, all the oil you have!\""],
         ["The whole village came with oil and lamps. At noon the machine opened its eyes and asked, \"How is the village?\" \"All of it is here,\" said {name}. It has kept the light ever since, and now it has a name: Friend.",
          "Nobody spoke of switching it off again. {friend} repaired the cables, the children painted the tower, and on its door there is a sign: \"Here lives our keeper. Please knock.\""]]},
]
MONTHS = "January February March April May June July August September October November December".split()
NUMBERS = "three four five six seven eight nine ten eleven twelve".split()


def story(rng, trade=None, plot=None):
    """(what the hero is and does, the story)"""
    plot = plot or rng.choice(PLOTS)
    hero, friend = person(rng), person(rng)
    while friend["name"] == hero["name"] or friend["name"].split()[0] == hero["name"].split()[0]:
        friend = person(rng)
    facts = {"name": hero["name"].split()[0], "they": hero["they"], "them": hero["them"], "their": hero["their"],
             "friend": friend["name"].split()[0], "friend2_they": friend["they"], "friend2_them": friend["them"],
             "trade": trade or rng.choice(TRADES), "village": rng.choice(list(VILLAGES)), "month": rng.choice(MONTHS)}
    facts["n"], facts["n2"] = rng.sample(NUMBERS, 2)
    title = write(rng, rng.choice(plot["titles"]), facts)
    scenes = [write(rng, rng.choice(s), facts) for s in plot["scenes"]]
    return facts, plot["hook"], title, scenes
