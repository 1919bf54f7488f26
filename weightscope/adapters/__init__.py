"""The private parts of torch that the library needs, and nothing else touches.

Each file holds one kind: ``pytree`` nested arguments, ``symbols`` sizes that follow the input,
``boundary`` marks in a traced graph, ``schemas`` operators, ``dispatch`` tensors without numbers
and the operators that run, ``modules`` what a module owns, ``modes`` what the caller has switched
on, ``regions`` what a forward switches inside, ``tracing`` settings of the tracer.

Where torch lacks one of them, the marks are written by the operator, the classes of layers are the
public ones, the caller's modes are refused, and the tracer keeps its own settings. Without nested
arguments, tensors without numbers, schemas, regions, sizes as expressions or the dictionaries of
modules nothing could be read: there ``needed`` says which torch to install.
``tests/test_adapters.py`` tests each part and each way out, with torch 2.9, 2.13 and 2.14;
``tests/test_architecture.py`` tests that no other file reaches past them.
"""
