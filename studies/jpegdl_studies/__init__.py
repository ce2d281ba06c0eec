"""What the studies of jpegdl share: data cuts, layers, networks, and tables of paired differences.

Settings name the parts as ``jpegdl_studies.layers:Whitened``; tables are printed by ``python -m jpegdl_studies.gains``
(what arms gain) and ``python -m jpegdl_studies.fit`` (whether they fit better or generalize better).
"""
