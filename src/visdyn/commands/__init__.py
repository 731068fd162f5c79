"""Commands of the program `visdyn` that do one thing without the pipeline; the others are `main` of their modules."""
