"""The command `lode`: one thin function a verb over the Python API."""
