"""Judges that answer in words: what they are asked, how their answers are read, and the run over all systems."""

from visdyn.evaluation.judges.judge_answers import Reading, Scores, parse_scores, read_answer

__all__ = ["Reading", "Scores", "parse_scores", "read_answer"]
