"""The kitchen world: a seeded renderer of 64x64 scenes with 12 reversible actions, and writers of public layouts.

state       what is where; actions, their inverses and their effects
scene       looks and furniture that no action changes; random states and transitions
render      state + scene -> uint8 image
motion      the frames of a hand that performs actions
text        canonical action texts, captions, long prompts (all templates written by us)
write       the tree under data/kitchen
truth       what is known of the images, for measuring only
draw        backgrounds and sprites
sheet       the contact sheet of all actions
"""
