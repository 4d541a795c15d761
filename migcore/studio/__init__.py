"""The embedded data set: a procedural film set that writes a folder in iMiGUE's own layout.

A seated speaker with forward kinematics (:mod:`rig`), one motion program per class over idle motion (:mod:`gestures`),
frames from signed distances (:mod:`renderer`, :mod:`figure`), a fallible skeleton (:mod:`estimator`), and captioned
stills (:mod:`stills`, :mod:`captions`) on which the miniature CLIP is pre-trained (:mod:`teacher`). Nothing learned
here says anything about real people.
"""
