"""The private parts of torch that the library needs, and nothing else touches.

Each file holds one kind: ``pytree`` nested arguments, ``symbols`` sizes that follow the input,
``boundary`` marks in a traced graph, ``schemas`` operators, ``dispatch`` tensors without numbers
and the operators that run, ``modules`` what a module owns, ``tracing`` settings of the tracer.
``tests/test_adapters.py`` tests each, ``tests/test_architecture.py`` that no other file reaches
past them.
"""
