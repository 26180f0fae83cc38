-- SQLite has no users: who may open the file may do everything. The number is taken all the same, so
-- that both databases have the same migrations.
SELECT 1;
