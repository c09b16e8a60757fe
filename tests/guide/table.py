"""Which test shows which statement of the operations guide: by the statement's key (text.py), in the guide's order.

test_table.py keeps it whole: every statement is here, every test named exists, and every test of this folder is named.
"""

SETTINGS = "tests/guide/test_settings.py::"
NAME_AND_DEFAULT = SETTINGS + "test_a_variable_has_the_guides_name_and_default"
METRICS = "tests/system/test_metrics.py::"
FIRST_SCRAPE = METRICS + "test_the_first_scrape_has_the_guides_metrics_with_its_labels_and_every_counter_at_zero"
COUNTS = METRICS + "test_each_metric_counts_what_the_guide_says"
ALERTS = "tests/guide/test_alerts.py::"
IN_THE_RULES = ALERTS + "test_an_alert_of_the_guide_is_among_the_rules_as_it_is_written_there"
FIRES = "tests/monitoring/test_alerts.py::test_promtool_fires_every_alert_and_sees_it_quiet"
PROMETHEUS = "tests/monitoring/test_prometheus.py::"
HAS_DATA = PROMETHEUS + "test_every_query_of_dashboard_alerts_and_guide_finds_data_in_a_prometheus_that_scrapes_workers"
SCALING = "tests/guide/test_scaling.py::"
REGISTERS = SCALING + "test_each_worker_registers_itself_takes_its_share_at_once_and_the_gauge_counts_them"
SQL = "tests/guide/test_sql.py::"
AT_WORK = "tests/guide/test_sql_at_work.py::"
VIEWS = AT_WORK + "test_the_views_of_the_queue_show_what_two_workers_are_doing"
TROUBLE = "tests/guide/test_troubleshooting.py::"
ALL_CRASHED = TROUBLE + "test_when_all_workers_have_crashed_nobody_leads_until_one_is_back"
CLOCK_OFF = "tests/chaos/test_chaos.py::test_half_a_minute_with_one_clock_off"
DRAIN = "tests/system/test_drain.py::"
DIE = "tests/system/test_workers_die.py::"
CONTAINERS = "tests/guide/test_containers.py::"
PLAN = "tests/store/test_claim_plan.py::"

TABLE: dict[str, tuple[str, ...]] = {
    "This document covers deployment, configuration, monitoring, and troubleshooting for the Task Orchestrator.": (
        "tests/unit/test_operations_page.py::test_it_has_the_sections_of_the_guide_in_their_order",
    ),
    # environment variables
    "DATABASE_URL": (
        NAME_AND_DEFAULT,
        SETTINGS + "test_only_what_the_guide_says_is_required_is",
        SETTINGS + "test_a_database_url_in_the_guides_form_is_worked_on",
    ),
    "POSTGRES_PASSWORD": (CONTAINERS + "test_compose_wants_the_password_and_gives_it_to_the_database_and_its_workers",),
    "WORKER_POOL_SIZE": (
        NAME_AND_DEFAULT,
        SETTINGS + "test_without_a_worker_pool_size_ten_tasks_run_at_once_and_no_more",
    ),
    "CLAIM_INTERVAL": (
        NAME_AND_DEFAULT,
        SETTINGS + "test_a_task_of_which_nobody_is_told_is_found_within_a_claim_interval",
    ),
    "SHUTDOWN_TIMEOUT": (
        NAME_AND_DEFAULT,
        DRAIN + "test_term_lets_running_tasks_finish_and_hands_back_the_rest",
        DRAIN + "test_a_drain_that_runs_out_of_time_requeues_what_runs_free_of_charge",
    ),
    "DISTRIBUTED_MODE": (
        NAME_AND_DEFAULT,
        SCALING + "test_with_distributed_mode_on_all_instances_they_share_one_queue",
        "tests/system/test_single_instance.py::test_a_second_instance_refuses_and_names_the_first_which_is_undisturbed",
    ),
    "HEARTBEAT_INTERVAL": (NAME_AND_DEFAULT, SETTINGS + "test_a_worker_beats_every_heartbeat_interval"),
    "WORKER_TIMEOUT": (
        NAME_AND_DEFAULT,
        DIE + "test_what_a_killed_worker_had_runs_again_elsewhere_and_its_row_goes",
    ),
    "LEADER_TERM": (NAME_AND_DEFAULT, SETTINGS + "test_a_lease_lasts_for_the_leader_term"),
    "CLEANUP_INTERVAL": (NAME_AND_DEFAULT, TROUBLE + "test_the_leader_recovers_orphaned_tasks_every_cleanup_interval"),
    "METRICS_PORT": (NAME_AND_DEFAULT, SETTINGS + "test_metrics_and_health_are_on_the_metrics_port"),
    "DEBUG": (NAME_AND_DEFAULT, SETTINGS + "test_debug_logs_in_detail_and_structured"),
    "ENQUEUE_EXAMPLES": (NAME_AND_DEFAULT, SETTINGS + "test_examples_are_enqueued_at_start_if_that_is_asked_for"),
    # metrics
    "All metrics are exposed at http://localhost:9090/metrics (or your configured METRICS_PORT).": (
        NAME_AND_DEFAULT,
        SETTINGS + "test_metrics_and_health_are_on_the_metrics_port",
    ),
    "tasks_enqueued_total": (
        FIRST_SCRAPE,
        METRICS + "test_enqueued_counts_what_anybody_adds_however_and_nothing_that_is_rolled_back",
    ),
    "tasks_completed_total": (FIRST_SCRAPE, COUNTS),
    "task_retries_total": (FIRST_SCRAPE, COUNTS),
    "tasks_dead_letter_total": (FIRST_SCRAPE, COUNTS),
    "tasks_pending": (FIRST_SCRAPE, COUNTS),
    "tasks_running": (FIRST_SCRAPE, COUNTS),
    "worker_pool_active": (FIRST_SCRAPE, COUNTS),
    "worker_pool_capacity": (
        FIRST_SCRAPE,
        SETTINGS + "test_without_a_worker_pool_size_ten_tasks_run_at_once_and_no_more",
    ),
    "workers_total": (FIRST_SCRAPE, REGISTERS),
    "leader_status": (FIRST_SCRAPE, SCALING + "test_exactly_one_is_elected_and_leader_status_tells_which"),
    "task_duration_seconds": (FIRST_SCRAPE, COUNTS),
    "task_claim_duration_seconds": (
        FIRST_SCRAPE,
        COUNTS,
        TROUBLE + "test_a_database_that_is_slow_to_answer_a_claim_shows_in_its_duration",
    ),
    "The leader_status metric is crucial for distributed deployments:": (
        SCALING + "test_exactly_one_is_elected_and_leader_status_tells_which",
    ),
    "Which worker is currently leader?": (HAS_DATA,),
    # alerts
    "NoLeader": (ALERTS + "test_the_guide_has_five_alerts", IN_THE_RULES, FIRES, ALL_CRASHED),
    "SplitBrain": (IN_THE_RULES, FIRES, DIE + "test_a_paused_leader_is_replaced_and_changes_nothing_when_it_wakes_up"),
    "TaskQueueBacklog": (IN_THE_RULES, FIRES),
    "WorkerPoolSaturated": (IN_THE_RULES, FIRES),
    "TasksDeadLettered": (
        IN_THE_RULES,
        FIRES,
        PROMETHEUS + "test_the_very_first_dead_letter_of_a_type_fires_its_alert",
    ),
    # health
    "curl http://localhost:9090/health": (SETTINGS + "test_metrics_and_health_are_on_the_metrics_port",),
    "Response": (
        SCALING + "test_health_answers_with_the_guides_keys",
        "tests/system/test_health.py::test_a_worker_that_works_answers_as_the_guide_shows",
    ),
    # scaling
    "Set DISTRIBUTED_MODE=true on all instances": (
        SCALING + "test_with_distributed_mode_on_all_instances_they_share_one_queue",
    ),
    "Each worker auto-registers on startup": (REGISTERS,),
    "Leader election happens automatically": (SCALING + "test_exactly_one_is_elected_and_leader_status_tells_which",),
    "Scale horizontally by adding more container replicas": (
        REGISTERS,
        CONTAINERS + "test_no_worker_has_a_name_or_a_host_port_of_its_own_so_there_can_be_any_number",
    ),
    # the queue's state
    "Pending tasks by type": (
        SQL + "test_pending_tasks_by_type",
        VIEWS,
        "tests/guide/test_sql_of_a_million.py::test_pending_tasks_by_type_are_read_from_an_index",
    ),
    "Dead letter tasks": (SQL + "test_dead_letter_tasks_the_latest_first", VIEWS),
    "Currently running tasks": (SQL + "test_currently_running_tasks", VIEWS),
    "Orphaned tasks (assigned to non-existent workers)": (
        SQL + "test_orphaned_tasks",
        VIEWS,
        TROUBLE + "test_the_leader_recovers_orphaned_tasks_every_cleanup_interval",
    ),
    "Retry a specific dead-letter task": (
        SQL + "test_the_manual_retry_of_one_task",
        SQL + "test_a_manual_retry_of_a_task_that_waits_for_its_backoff_makes_it_due_at_once",
        SQL + "test_a_manual_retry_of_a_running_task_fences_the_execution_that_goes_on",
        AT_WORK + "test_one_dead_letter_is_retried_by_hand_while_workers_run",
        AT_WORK + "test_a_task_that_is_retried_by_hand_while_it_runs_ends_once_with_the_later_outcome",
    ),
    "Retry all dead-letter tasks of a type": (
        SQL + "test_the_manual_retry_of_all_dead_letters_of_a_type",
        AT_WORK + "test_all_dead_letters_of_a_type_are_retried_by_hand_while_workers_run",
    ),
    # troubleshooting
    "Worker crashed after claiming but before starting execution.": (
        TROUBLE + "test_a_worker_that_crashed_after_claiming_leaves_tasks_claimed_and_a_restart_recovers_them",
    ),
    "In distributed mode, the leader automatically recovers orphaned tasks every CLEANUP_INTERVAL.": (
        TROUBLE + "test_the_leader_recovers_orphaned_tasks_every_cleanup_interval",
    ),
    "In single-instance mode, restart the worker to trigger recoverStaleTasks.": (
        TROUBLE + "test_a_worker_that_crashed_after_claiming_leaves_tasks_claimed_and_a_restart_recovers_them",
    ),
    "Database under load, missing indexes, or too many pending tasks.": (
        TROUBLE + "test_a_database_that_is_slow_to_answer_a_claim_shows_in_its_duration",
        TROUBLE + "test_without_its_index_a_claim_reads_the_whole_queue_and_with_it_hardly_more_than_it_takes",
        PLAN + "test_a_claim_does_not_read_what_is_behind_its_limit",  # too many pending tasks are no cause any more
    ),
    "Verify idx_tasks_claimable partial index exists": (
        TROUBLE + "test_without_its_index_a_claim_reads_the_whole_queue_and_with_it_hardly_more_than_it_takes",
    ),
    "Reduce WORKER_POOL_SIZE to claim fewer tasks per query": (
        TROUBLE + "test_half_the_worker_pool_size_halves_the_largest_claim",
    ),
    "Scale database resources": (
        "tests/system/test_start_failures.py::"
        "test_too_few_connections_are_told_with_the_numbers_and_the_children_that_have_one_work",
    ),
    "Clock skew between workers, or all workers crashing.": (ALL_CRASHED, CLOCK_OFF),
    "Ensure NTP is configured on all hosts": (CLOCK_OFF,),  # without it nothing goes wrong either
    "Check worker logs for registration errors": (
        TROUBLE + "test_a_registration_that_the_database_refuses_is_in_the_log",
        TROUBLE + "test_a_registration_anew_that_the_database_refuses_is_in_the_log_too",
    ),
    "Verify workers table has entries with recent last_heartbeat": (ALL_CRASHED,),
}
