# Read by the guest's login shells.
PS1='\u@\h:\w\$ '
# Nobody is there to take the orderly way: the first process is a script.
alias poweroff='poweroff -f' reboot='reboot -f' halt='halt -f'
