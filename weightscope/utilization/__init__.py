"""What is used: numbers -> scores, ranking, verdict."""
