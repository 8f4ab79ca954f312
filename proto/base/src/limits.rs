//! Every limit that both sides know, each named after what it bounds. What a manager can configure starts from these.

/// The smallest, average and largest chunk of content (bytes). Part of the package format: changing them changes every address.
pub const CHUNK_MIN: usize = 16 << 10;
/// See [`CHUNK_MIN`].
pub const CHUNK_AVERAGE: usize = 64 << 10;
/// See [`CHUNK_MIN`].
pub const CHUNK_MAX: usize = 256 << 10;
/// The longest manifest or chunk list (bytes).
pub const MANIFEST_MAX: u64 = 64 << 20;
/// The longest signed envelope or trust document (bytes).
pub const ENVELOPE_MAX: usize = 64 << 10;
/// Bytes of a manifest that travels with the offer of its package.
pub const OFFERED_MANIFEST_MAX: usize = 16 << 10;
/// Bytes of all manifests that travel with one offer.
pub const OFFERED_MANIFESTS_MAX: usize = 128 << 10;
/// The most files, links and directories in a package.
pub const FILES_MAX: usize = 200_000;
/// The largest file of a package (bytes).
pub const FILE_SIZE_MAX: u64 = 1 << 40;
/// The most steps of a package.
pub const STEPS_MAX: usize = 64;
/// The most detection rules of a package.
pub const DETECTION_MAX: usize = 16;
/// The most nodes of a package's requirements, and how deep they may be nested.
pub const REQUIREMENTS_MAX: usize = 512;
/// See [`REQUIREMENTS_MAX`].
pub const REQUIREMENTS_DEPTH_MAX: usize = 8;
/// What a package says about machines, other packages and values, all together as JSON (bytes): the manager keeps it beside each
/// version.
pub const TERMS_MAX: usize = 64 << 10;
/// The longest regular expression (bytes).
pub const PATTERN_MAX: usize = 512;
/// The largest program that a regular expression may become (bytes).
pub const PATTERN_PROGRAM_MAX: usize = 64 << 10;
/// The most bounds of a range of versions.
pub const RANGE_BOUNDS_MAX: usize = 8;
/// The most parameters of a package, and the longest value of one (bytes).
pub const PARAMETERS_MAX: usize = 32;
/// See [`PARAMETERS_MAX`].
pub const PARAMETER_VALUE_MAX: usize = 1024;
/// The most packages that one depends on, or that one supersedes.
pub const RELATIONS_MAX: usize = 32;
/// The longest installation that a package may state (seconds).
pub const DURATION_MAX: u32 = 7 * 24 * 3600;
/// The most log files that a package names.
pub const LOGS_MAX: usize = 16;
/// What is fetched of the logs of a package that failed, all together: their ends (bytes).
pub const LOG_BYTES_MAX: usize = 1 << 20;
/// How much of a file or of an output is looked at for a version (bytes).
pub const VERSION_TEXT_MAX: usize = 1 << 20;
/// The longest argument vector (bytes, all arguments together).
pub const ARGV_MAX: usize = 64 << 10;
/// The longest path inside a package (bytes).
pub const PATH_MAX: usize = 1024;
/// A detection command's time limit when the package names none (seconds).
pub const DETECTION_SECONDS_DEFAULT: u32 = 60;
/// The longest time limit of a step (seconds).
pub const STEP_SECONDS_MAX: u32 = 24 * 3600;
/// A step's time limit when the package names none (seconds).
pub const STEP_SECONDS_DEFAULT: u32 = 3600;
/// The most packages in one job, those that they depend on included.
pub const JOB_PACKAGES_MAX: usize = 32;
/// The most destinations of one job.
pub const JOB_TARGETS_MAX: usize = 1000;
/// The most groups in the scope of an operator's role.
pub const SCOPE_GROUPS_MAX: usize = 1000;
/// The longest description of anything (bytes).
pub const DESCRIPTION_MAX: usize = 1024;
/// The most labels of a client, and the longest value of one (bytes).
pub const LABELS_MAX: usize = 64;
/// See [`LABELS_MAX`].
pub const LABEL_VALUE_MAX: usize = 256;
/// The most questions that operators ask: all of them fit into one message to an agent, with their answers.
pub const QUESTIONS_MAX: usize = 100;
/// The most objects in one set of files.
pub const CONFIGURATION_MAX: usize = 2000;
/// The longest text of a question (bytes).
pub const PROMPT_MAX: usize = 512;
/// The longest text of an announcement (bytes).
pub const ANNOUNCEMENT_MAX: usize = 512;
/// How long the user has to answer an announcement: at the least, at the most, and unless the job says so.
pub const COUNTDOWN: std::ops::RangeInclusive<std::time::Duration> =
    std::time::Duration::from_secs(5)..=std::time::Duration::from_secs(24 * 3600);
/// See [`COUNTDOWN`].
pub const COUNTDOWN_DEFAULT: std::time::Duration = std::time::Duration::from_secs(15 * 60);
/// How often the user may put something off, at the most.
pub const DEFERRALS_MAX: u32 = 100;
/// For how long, each time: at the least, at the most, and unless the job says so.
pub const DEFER_FOR: std::ops::RangeInclusive<std::time::Duration> =
    std::time::Duration::from_secs(5)..=std::time::Duration::from_secs(7 * 24 * 3600);
/// See [`DEFER_FOR`].
pub const DEFER_FOR_DEFAULT: std::time::Duration = std::time::Duration::from_secs(3600);
/// The most choices of a question, and the longest of them (bytes).
pub const CHOICES_MAX: usize = 32;
/// See [`CHOICES_MAX`].
pub const CHOICE_MAX: usize = 100;
/// The longest answer (bytes).
pub const ANSWER_MAX: usize = 1024;
/// The largest report of facts (bytes).
pub const FACTS_MAX: usize = 512 << 10;
/// The part of a step's output that is kept: its end (bytes).
pub const OUTPUT_TAIL_MAX: usize = 64 << 10;
/// The largest outcome of an attempt on the wire (bytes): one output tail, escaped, and the rest.
pub const OUTCOME_MAX: usize = 512 << 10;
/// The largest message of the enrolment service (bytes).
pub const ENROLL_MESSAGE_MAX: usize = 16 << 10;
/// The largest message between agent and manager (bytes).
pub const AGENT_MESSAGE_MAX: usize = 1 << 20;
/// The largest message between operator and manager (bytes).
pub const OPERATOR_MESSAGE_MAX: usize = 4 << 20;
/// The most digests in one question for chunks.
pub const DIGESTS_MAX: usize = 8192;
/// The largest page of a list, and the one that is used when none is asked for.
pub const PAGE_MAX: u32 = 1000;
/// See [`PAGE_MAX`].
pub const PAGE_DEFAULT: u32 = 100;
/// The most policies that one change applies.
pub const APPLY_MAX: usize = 100;
/// The most matches of the policies that one change applies, all counted: so many are kept in memory until they are registered.
pub const APPLY_MATCHES_MAX: usize = 2_000_000;
/// The longest text of a condition (bytes).
pub const CONDITION_MAX: usize = 2048;
/// The most addresses of a client's higher system.
pub const ADDRESSES_MAX: usize = 8;
/// The most tokens made at once, and the most uses of a reusable one.
pub const TOKENS_MAX: u32 = 10_000;
/// See [`TOKENS_MAX`].
pub const TOKEN_USES_MAX: u32 = 1_000_000;
/// The most rows of a file for `group add` or `label import`.
pub const IMPORT_ROWS_MAX: usize = 100_000;
/// How long a lease lasts that nobody renews (seconds).
pub const LEASE_SECONDS: u32 = 600;
/// The most attempts that are offered to one client and not at an end.
pub const OPEN_ATTEMPTS_MAX: usize = 64;
