"""``outrelay-cli fleet watch``: the fleet as it is, second by second.

``sample`` asks the controller, ``rates`` compares two answers, ``follow`` goes on doing both
whatever becomes of the controller, ``screen`` shows it, ``command`` is the command.
"""
