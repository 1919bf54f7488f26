"""The private parts of torch that the library needs, and nothing else touches.

Each file holds one kind: ``pytree`` nested arguments, ``symbols`` sizes that follow the input,
``boundary`` marks in a traced graph, ``schemas`` operators, ``dispatch`` tensors without numbers
and the operators that run, ``modules`` what a module owns, ``modes`` what the caller has switched
on, ``regions`` what a forward switches inside, ``tracing`` settings of the tracer.
The marks have a fallback; without the others nothing could be read at all.
``tests/test_adapters.py`` tests each, with torch 2.9, 2.13 and 2.14, ``tests/test_architecture.py``
that no other file reaches past them.
"""
