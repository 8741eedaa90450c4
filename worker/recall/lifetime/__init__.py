"""How long users stay and what they bring: BG/NBD for the orders, Gamma-Gamma for their value.

Users order at a rate of their own and leave after any order with a probability of their own; both vary over the
population by distributions that are fitted to all histories at once. So it speaks of a user from his first order on,
and needs no labels.
"""
