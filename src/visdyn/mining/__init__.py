"""Mining: key-frames of unlabelled clips, reversible actions, their curation, and stratified sampling."""
