"""Long prompts (30 to 60 words) for an action and for its reverse, in the manner of the Do-Undo benchmark.

The benchmark's prompts were written by a vision-language model from five frames; these come from templates written by
us, with several wordings for each part, and say only what is true of the kitchen.
"""

from __future__ import annotations

import numpy as np

from visdyn.kitchen.state import Action, State, apply, column_of

MIN_WORDS, MAX_WORDS = 30, 60

OPENINGS = (
    "From an egocentric view,",
    "From a first-person perspective,",
    "Seen through the eyes of the person in the kitchen,",
    "In a first-person view of a kitchen,",
)
HANDS = ("one hand", "a single hand", "the person's hand", "a hand coming from below")
ENTRANCES = (
    "{hand} comes into view and reaches for the {noun}",
    "{hand} reaches forward towards the {noun}",
    "{hand} stretches out to the {noun}",
)
WORK = {
    "open-drawer": (
        "pulls the handle so that the {noun} slides out and its dark inside can be seen",
        "grips the handle and draws the {noun} open towards the person",
    ),
    "close-drawer": (
        "pushes the front of the {noun} back until it is flush with the counter",
        "slides the {noun} shut so that only its closed front can be seen",
    ),
    "open-cupboard": (
        "takes the knob and swings the door of the cupboard open to the left, showing the shelf inside",
        "pulls the cupboard door open so that the plate on its upper shelf appears",
    ),
    "close-cupboard": (
        "swings the door of the cupboard shut so that its shelves are hidden",
        "pushes the cupboard door back until it covers the shelves",
    ),
    "turn-on-lamp": (
        "pulls the cord so that the lamp lights up and casts a warm cone of light on the wall",
        "tugs the hanging cord once and the lamp begins to glow over the counter",
    ),
    "turn-off-lamp": (
        "pulls the cord so that the lamp goes dark and its light on the wall disappears",
        "tugs the hanging cord once and the glow of the lamp goes out",
    ),
    "turn-on-tap": (
        "lifts the lever so that water runs from the spout into the sink",
        "pushes the lever of the tap up and a stream of water starts to fall",
    ),
    "turn-off-tap": (
        "presses the lever down so that the water stops running",
        "lowers the lever of the tap and the stream of water ends",
    ),
    "pick-up": (
        "grasps it, lifts it off the counter and holds it close to the person",
        "closes its fingers round it and takes it up from the counter",
    ),
    "put-down": (
        "lowers it to the free place on the counter and lets go of it",
        "sets it down on the counter behind and then draws back empty",
    ),
    "place-in": (
        "lifts it over the rim and lowers it into the wicker basket on its left",
        "carries it to the left and drops it into the basket, where its top stays visible",
    ),
    "remove-from": (
        "lifts it out of the wicker basket and sets it down on the counter to the right",
        "takes it from the basket and places it on the free spot beside it",
    ),
    "move-left": (
        "slides it one place to the left along the counter and lets go",
        "shifts it to the free place on its left",
    ),
    "move-right": (
        "slides it one place to the right along the counter and lets go",
        "shifts it to the free place on its right",
    ),
    "stack": (
        "lifts it and sets it down on top of the {other} on its left",
        "raises it and balances it on the {other} to the left",
    ),
    "unstack": (
        "takes it off the {other} and sets it down on the counter to the right",
        "lifts it from the top of the {other} and places it on the free spot beside it",
    ),
}
CLOSINGS = (
    "Everything else in the kitchen stays as it was.",
    "The other objects, the wall and the light remain unchanged.",
    "Nothing else in the scene moves and the camera stays still.",
    "The rest of the kitchen and the point of view do not change.",
)
PLACES = ("far left", "left", "middle", "right", "far right")


def _describe_place(state: State, action: Action) -> str:
    """Say where the object or device is before the action."""
    noun = action.noun
    if noun == state.held:
        return f"below the {PLACES[state.held_column]} of the counter"
    if noun == state.basket:
        return f"lying in the basket at the {PLACES[state.basket_column]} of the counter"
    if noun in ("cupboard", "lamp", "tap"):
        return {"cupboard": "hanging on the wall", "lamp": "hanging over the counter", "tap": "beside the sink"}[noun]
    if noun.endswith("drawer"):
        side = [name for name, _ in state.devices].index(noun)
        return f"under the {('left', 'right')[side]} part of the counter"
    place = f"at the {PLACES[column_of(state, noun)]} of the counter"
    stack = state.columns[column_of(state, noun)]
    return f"on top of the {stack[0]} {place}" if stack[-1] == noun and len(stack) == 2 else f"standing {place}"


def _choose_work_key(action: Action) -> str:
    if action.verb in ("open", "close", "turn-on", "turn-off"):
        return f"{action.kind}-{action.noun.split()[-1]}"
    return action.kind


def _find_lower_object(state: State, action: Action) -> str:
    """The object under the stack that the action makes or takes apart, or ""."""
    if action.verb == "unstack":
        return state.columns[column_of(state, action.noun)][0]
    if action.verb == "stack":
        return apply(state, action).columns[column_of(state, action.noun) - 1][0]
    return ""


def long_prompt(state: State, action: Action, rng: np.random.Generator) -> str:
    """Describe an action that starts in `state` in one paragraph of 30 to 60 words.

    The reverse prompt is this function's answer for the end state and the inverse action.
    """

    while True:
        text = _compose_prompt(state, action, rng)
        if MIN_WORDS <= len(text.split()) <= MAX_WORDS:
            return text


def _compose_prompt(state: State, action: Action, rng: np.random.Generator) -> str:
    def pick_option(options: tuple[str, ...]) -> str:
        return options[int(rng.integers(len(options)))]

    hand = pick_option(HANDS)
    entrance = pick_option(ENTRANCES).format(hand=hand, noun=action.noun)
    if action.noun == state.held:
        entrance = f"{hand} already holds the {action.noun}"
    work = pick_option(WORK[_choose_work_key(action)]).format(noun=action.noun, other=_find_lower_object(state, action))
    joint = pick_option((", and then it ", ". It "))
    return f"{pick_option(OPENINGS)} {entrance}, {_describe_place(state, action)}{joint}{work}. {pick_option(CLOSINGS)}"
