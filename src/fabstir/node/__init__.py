"""The composition roots of a host (`build`) and of an S5 node (`s5`), and what both can be asked.

Nothing is imported here: a command for files need not wait for libp2p and the chain's libraries.
"""
