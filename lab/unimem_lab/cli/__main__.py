"""`python -m unimem_lab.cli`: what the `unimem` script does, for child processes of `unimem up`."""

from unimem_lab.cli import main
from unimem_lab.parent import end_with_parent

end_with_parent()
main()
