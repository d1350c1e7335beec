# Read by the guest's login shells.
PS1='guest:\w\$ '
cd
