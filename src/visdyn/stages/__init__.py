"""One module a stage of dvc.yaml: the stage's paths and parameters, resolved into plain arguments of the science."""
