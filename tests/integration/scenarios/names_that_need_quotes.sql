-- Names that need quotes.

-- name: tables
CREATE TABLE "Order ""x"".y" (
    "select" integer, "Käy.1" text, "a b" text, "%s" text, "c'd" text, PRIMARY KEY ("Käy.1", "select")
);

-- name: work
INSERT INTO "Order ""x"".y" SELECT i, 'ä ' || i, '%s', '''', '' FROM generate_series(1, 5) i;

UPDATE "Order ""x"".y" SET "%s" = '{}', "c'd" = '%(x)s' WHERE "select" < 3;

UPDATE "Order ""x"".y" SET "select" = 7, "a b" = 'z' WHERE "select" = 5;

DELETE FROM "Order ""x"".y" WHERE "select" = 4;
