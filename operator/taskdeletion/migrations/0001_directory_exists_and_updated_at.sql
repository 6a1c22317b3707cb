-- What the task deletion operator needs beyond the pipeline's own columns:
--   directory_exists  FALSE once nothing of the task is left in the places that the TaskStore names; through a
--                     TaskStore that names no directory it is never set;
--   updated_at        when the row last changed. The operator never deletes a task whose row changed after it looked,
--                     so the pipeline should set it on every change of a task; the operator sets it with its mark.
--
-- Apply it once, as the owner of the tables: psql "$URL" -f 0001_directory_exists_and_updated_at.sql
-- It can be applied again without harm, and changes no existing value. PostgreSQL 11 and later add the columns without
-- rewriting the table.
--
-- Other names: replace data_pipeline_tasks by the TaskStore's spec.catalog.postgres.tasksTable, in double quotes where
-- SQL needs them (archive."Tasks"). updated_at may as well be a TIMESTAMP WITH TIME ZONE; a column without a zone is
-- read in spec.catalog.postgres.timeZone.

BEGIN;

-- Waits for running queries at most this long, so that the pipeline does not queue up behind the migration.
SET LOCAL lock_timeout = '5s';

ALTER TABLE data_pipeline_tasks
    ADD COLUMN IF NOT EXISTS directory_exists BOOLEAN DEFAULT TRUE,
    ADD COLUMN IF NOT EXISTS updated_at TIMESTAMP NULL;

COMMIT;

-- The rights that the operator's role needs (the name is an example). DELETE only where records are to go
-- (deleteDatabaseRecords).
--
--   CREATE ROLE task_deletion_operator LOGIN PASSWORD '...';
--   GRANT SELECT ON data_pipeline_tasks, data_pipeline_task_steps TO task_deletion_operator;
--   GRANT UPDATE (directory_exists, updated_at) ON data_pipeline_tasks TO task_deletion_operator;
--   GRANT DELETE ON data_pipeline_tasks, data_pipeline_task_steps TO task_deletion_operator;
