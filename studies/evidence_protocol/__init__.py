"""The protocol of the evidence study: tasks, networks, runs, scores, judgement, figures."""
