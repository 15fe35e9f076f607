"""Floor 6: which parts, wired how? A platform's data becomes a chip (`Mpsoc`), with a kernel a `Node`."""
