"""Everything about files: find, read and write checkpoints, rename tensors, and fill networks, which know nothing about files.

In reading order: names and original_names (tensor names, with renaming rules as data), settings and sampler_settings (diffusers'
JSON, whose values vetting checks), generations (v1 and v2), safetensors and pickles (files of tensors), compare (a file against the
tensors that a network expects), fill (networks on the meta device), added_words, vocabulary and folder (which files are needed),
find (where they are), official, prediction and single_file (what a single file is), pipeline_index, checkpoint (all of it
together), single_network (one network of a checkpoint), load and save. Small helpers: texts, writing, errors.
Import each name from the module that defines it.
"""
