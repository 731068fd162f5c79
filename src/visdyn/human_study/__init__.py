"""The human study: blind best/worst comparison (Bootstrapping, Table 5) and pairwise preference (Do-Undo, Table 7).

    study     the definition read from a folder of system outputs
    criteria  what annotators are asked, by kind of study
    plan      which items and which order one annotator gets
    prepare   writes such a folder from images at hand; from_outputs, from the pipeline's own
    store     answers in SQLite
    app       the pages; security, session and pictures are its parts
    export    answers as CSV
    analysis  Table 5 and Table 7 from that CSV; stage puts them on disk

`visdyn study serve FOLDER` serves a study.
"""
