"""Codecs: vectors in fewer bytes. One file each; arrays in, arrays out; `_codec.Codec` is what each of them is."""
