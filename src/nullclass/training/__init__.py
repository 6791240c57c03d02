"""Training, a sequence of steps: data, null images and a model in, a trained model out.

``recipes`` and ``config`` describe a training, ``loop`` runs it (``batches``, ``steps``, ``state``,
``selection``), ``checkpoint`` writes the result. ``robust`` is an open set of losses.
``recipes``, ``queries`` and ``eps_schedule`` load without torch.
"""
