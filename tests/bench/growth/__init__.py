"""How the cost of a row grows with the backlog, the tables, the columns and the slaves."""
