"""Everything about files: finding, naming, reading, filling, writing. The networks know nothing of it.

In reading order: names and original_names (what tensors are called, as rules that are data), settings and sampler_settings
(diffusers' JSON, whose values vetting checks), generations (v1 and v2), safetensors and pickles (files of tensors), compare (a file
against what a network expects), fill (networks on the meta device), added_words, vocabulary and folder (which files are needed),
find (where they are), official, prediction and single_file (what a single file is), pipeline_index, checkpoint (all of it
together), single_network (one of its networks), load and save. Smallest: texts, writing, errors.

Import a name from the module that defines it.
"""
