-- COPY FROM, whose rows follow the statement here.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, n integer, v text);

-- name: rows
INSERT INTO t SELECT i, i * 10, 'row ' || i FROM generate_series(1, 5) i;

-- name: work
COPY t FROM STDIN;
10	10	copied 10
11	11	copied 11
12	12	copied 12
13	13	copied 13
14	14	copied 14
15	15	copied 15
16	16	copied 16
17	17	copied 17
18	18	copied 18
19	19	copied 19
20	20	copied 20
21	21	copied 21
22	22	copied 22
23	23	copied 23
24	24	copied 24
25	25	copied 25
26	26	copied 26
27	27	copied 27
28	28	copied 28
29	29	copied 29
30	30	copied 30
31	31	copied 31
32	32	copied 32
33	33	copied 33
34	34	copied 34
35	35	copied 35
36	36	copied 36
37	37	copied 37
38	38	copied 38
39	39	copied 39

COPY t (v, id) FROM STDIN;
\N	4000
tab \t and \\ and newline \n	4001

COPY t FROM STDIN WITH (FORMAT csv);
5000,1,"a, b"
5001,,
