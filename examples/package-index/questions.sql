-- Holds a Debian package index in memory and asks about it. Each answer is on standard output, so
-- that two runs can be compared. The files are written by the demonstration beside this one:
-- fields end with 0x1f, rows with 0x1e, as sqlite3's ascii mode wants them.

.bail on
.mode ascii
PRAGMA temp_store = memory;

CREATE TABLE package(name, version, section, source, maintainer, installed_kb INTEGER,
                     description, record);
CREATE TABLE relation(package, kind, needs);
CREATE TABLE word(word, package);
.import package.txt package
.import relation.txt relation
.import word.txt word

.mode tabs
.separator "\t" "\n"
.print * the index is loaded
SELECT 'packages', count(*), sum(length(record)) FROM package;
SELECT 'relations', count(*) FROM relation;
SELECT 'words', count(*) FROM word;

CREATE INDEX package_name ON package(name);
CREATE INDEX package_source ON package(source, name);
CREATE INDEX relation_package ON relation(package, kind);
CREATE INDEX relation_needs ON relation(needs, package);
CREATE INDEX word_word ON word(word, package);
.print * five indexes are built

SELECT 'section', section, count(*) AS packages, sum(installed_kb) / 1024 AS mb
FROM package GROUP BY section ORDER BY packages DESC, section LIMIT 8;
.print * the largest sections are counted

SELECT 'needed', needs, count(DISTINCT package) AS by_packages
FROM relation WHERE kind = 'Depends' GROUP BY needs ORDER BY by_packages DESC, needs LIMIT 8;
.print * the most needed packages are found

WITH RECURSIVE closure(name) AS (
  SELECT 'gnome'
  UNION
  SELECT needs FROM closure JOIN relation ON package = name
  WHERE kind IN ('Depends', 'Pre-Depends')
)
SELECT 'gnome needs', count(*), sum(installed_kb) / 1024 || ' MB'
FROM closure JOIN package USING (name);
.print * all that gnome needs, and what that needs, is gathered

SELECT 'twins', a.package, b.package, count(*) AS words
FROM word AS a JOIN word AS b ON a.word = b.word AND a.package < b.package
WHERE a.word IN (SELECT word FROM word GROUP BY word HAVING count(*) BETWEEN 2 AND 12)
GROUP BY a.package, b.package ORDER BY words DESC, 2, 3 LIMIT 8;
.print * descriptions that are alike are paired

SELECT 'maintainer', maintainer, count(DISTINCT needs) AS different_needs
FROM package JOIN relation ON package = name
GROUP BY maintainer ORDER BY different_needs DESC, maintainer LIMIT 8;
.print * every relation is joined to its package

UPDATE package SET record = replace(record, char(10), ' | ') WHERE section = 'libs';
DELETE FROM word WHERE length(word) < 4;
SELECT 'checksum', count(*), sum(length(record)), sum(unicode(substr(record, rowid % 400 + 1)))
FROM package;
SELECT 'checksum', count(*), sum(length(word) * (rowid % 1009)) FROM word;
.print * a part is rewritten, and everything is read once more
