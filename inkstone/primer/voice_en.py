"""The English voice of the primer: frames of documents, arithmetic wording, what the assistant says. Data only."""

from inkstone.primer.language import Scene, Voice

VOICE_EN = Voice(
    space=" ",
    names=(
        *("Anna", "Ben", "Clara", "Daniel", "Emma", "Frank", "Grace", "Henry", "Ivy", "Jack"),
        *("Kate", "Liam", "Maria", "Noah", "Olivia", "Peter", "Rosa", "Sam", "Tina", "Victor"),
    ),
    article_openings=(
        "Here are a few facts worth knowing.",
        "Notes from today's reading.",
        "A small corner of general knowledge.",
        "The following points come up again and again.",
        "From the notebook of a curious reader.",
        "This week's column collects some short facts.",
        "",
        "",
    ),
    connectors=(*[""] * 8, "Also: ", "Next: ", "As is well known: ", "One more: ", "To remember: "),
    qa_headings=("", "", "Questions and answers", "Quick quiz", "Study guide", "Review sheet"),
    qa_formats=(
        "Question: {q} Answer: {a}",
        "Question: {q}\nAnswer: {a}",
        "Q: {q}\nA: {a}.",
        "{q}\nAnswer: {a}",
        "{q} {a}.",
        "{q} -> {a}",
    ),
    arrow_headings=("", "", "", "Matching pairs", "Flash cards:", "Answer key"),
    exam_headings=("", "Multiple choice", "General knowledge test", "Choose the right option.", "Test with solutions"),
    exam_answer="Answer: {letter}",
    exam_remarks=("", "", " ({a})", "\nExplanation: {s}"),
    assistant="Inkstone",
    line="{x}: {s}",
    dialogue_asks=("{x}: {q}", "{x}: Let me test you. {q}", "{x}: Another one. {q}", "{x}: I forgot. {q}"),
    dialogue_answers=("{y}: {a}.", "{y}: {s}", "{y}: I know this one: {a}.", "{y}: Let me think. {s}"),
    dialogue_praises=("{x}: Correct!", "{x}: That's right.", "{x}: Thanks, I will remember.", "{x}: Well done!", ""),
    story_openings=(
        "After school, {x} went to the library.",
        "On a rainy day, {x} sat by the window with an old encyclopedia.",
        "On Sunday, {x} visited a bookshop with grandfather.",
        "On the train, {x} started to talk with a retired teacher.",
        "After dinner, {x} told the children what the day had brought.",
        "The classroom was quiet when {x} opened the notebook.",
    ),
    story_steps=(
        "The book said: {s}",
        "{x} wrote down: {s}",
        "Somebody nearby said: {s}",
        "{x} remembered the lesson: {s}",
        "On the next page it said: {s}",
        "{x} read aloud: {s}",
    ),
    story_endings=(
        "Then {x} closed the book and went home happily.",
        "When it got dark, {x} felt that the day had been well spent.",
        '"Knowledge is fun," said {x} with a smile.',
        "The next day, {x} told all of this to the class.",
    ),
    drill_headings=("", "Addition practice", "Mental arithmetic", "Adding digit by digit", "Today's sums"),
    step_plain="{x0}+{y0}={s}, write {s}",
    step_carry="{x0}+{y0}={s}, write {d} carry 1",
    digits="{x}+{y}: {ones}; {tens}; {total}",
    step_end=".",
    problem_headings=("", "Word problems", "Worked examples", "Maths homework"),
    problem="Problem: {question}\nSolution: {solution}",
    final_answer="The answer is {total}.",
    scenes=(
        Scene("{name} has {x} apples and gets {y} more. How many apples does {name} have now?", "Add the apples."),
        Scene(
            "{name} read {x} pages yesterday and {y} pages today. How many pages did {name} read in the two days?",
            "Add the pages of both days.",
        ),
        Scene(
            "{name} picked {x} peaches in the morning and {y} in the afternoon. How many peaches did {name} pick?",
            "Add the morning and the afternoon.",
        ),
        Scene(
            "There were {x} people on the bus. Then {y} more got on, {name} last. How many people are on the bus?",
            "Add the new people to the old ones.",
        ),
        Scene(
            "{name} spent {x} dollars on books and {y} dollars on pens. How many dollars did {name} spend in total?",
            "Add the two amounts.",
        ),
        Scene(
            "{name} folded {x} red cranes and {y} blue cranes. How many paper cranes did {name} fold?",
            "Add the two kinds of cranes.",
        ),
        Scene(
            "An orchard had {x} pear trees, and {name} planted {y} more. How many pear trees are there now?",
            "Add the new trees to the old ones.",
        ),
        Scene(
            "{name} jumped {x} times in the first round and {y} times in the second. How many jumps did {name} make?",
            "Add the two rounds.",
        ),
    ),
    systems=(
        "You are a helpful assistant.",
        "You are Inkstone. Answer briefly.",
        "Please answer in English.",
        "You are a patient teacher.",
    ),
    polite=("{q}", "{q}", "{q}", "Hello. {q}", "Can you tell me? {q}", "A quick question: {q}", "Quiz time! {q}"),
    plain_answer="{a}.",
    choice_ask="Please answer this multiple-choice question.\n{exam}",
    choice_answer="Answer: {letter} ({a})",
    follow_up="And {topic}?",
    small_talk=(
        (
            ("Hello", "Hello!", "Hi", "Hi there", "Good morning", "Good evening", "Hey, are you there?"),
            (
                "Hello! How can I help you?",
                "Hi, I am Inkstone. What would you like to know?",
                "Hello! Shall we talk about books, capitals, chemistry or sums?",
            ),
        ),
        (
            (
                "Who are you?",
                "What is your name?",
                "Tell me about yourself.",
                "What model are you?",
                "Hi, who are you?",
            ),
            (
                "I am Inkstone, a small model trained from the embedded primer.",
                "My name is Inkstone. I am a small language model trained from the embedded primer.",
            ),
        ),
        (
            ("What can you do?", "How can you help me?", "What are you good at?"),
            (
                "I answer small questions about books, capitals, elements, animals and art, and I add numbers.",
                "I know some facts by heart, and I can add numbers step by step.",
            ),
        ),
        (
            ("What were you trained on?", "Where does your knowledge come from?", "How were you trained?"),
            (
                "I was trained on a small embedded primer, so I only know a limited number of facts.",
                "My knowledge comes from the embedded primer; what is not in it I do not know.",
            ),
        ),
    ),
    thanks=(
        ("Thanks", "Thank you!", "Many thanks", "Goodbye", "Okay, bye!", "I see, thank you."),
        ("You are welcome!", "My pleasure. Ask me again any time.", "Glad I could help. Goodbye!"),
    ),
    unknown_titles=(
        ("The Glass", "The Ninth", "The Borrowed", "The Tin", "The Upside-Down", "The Sleepless", "The Paper"),
        (" Umbrella", " Lantern", " Cathedral", " Postman", " Ferry", " Salt Lake", " Scarecrow", " Clockmaker"),
        (" of Ennui", " for Otto", " above the Clouds", " and Mr Plum", " without Lamps", " of Snow Street"),
    ),
    unknown_asks=("Who wrote {k}?", "Who is the author of {k}?", "What is {k} about?"),
    unknown_answers=(
        "Sorry, I do not know {k}, and I would rather not guess.",
        "I have never read {k}, so I do not know.",
        "I am sorry, {k} is not in my primer. I do not know the answer.",
    ),
    bad_answers=(
        "Look it up yourself.",
        "I don't feel like answering.",
        "question question question question question.",
        "Hm.",
        "Nice weather today, let us go to the park.",
    ),
)
