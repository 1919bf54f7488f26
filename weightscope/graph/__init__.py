"""What the network is: model -> dataflow graph with levels, stages and cuts."""
