//! What is moved from SQLite to PostgreSQL is all there, is what was there, or nothing is moved.

use crate::{Database, read};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _, SqliteConnection, sqlite::SqliteConnectOptions};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};
use sutler_store::{MigrateError, Migrated, Phase, Store, migrate, unit};

/// Tables with exactly one row, which every new database has.
const SINGLE: [(&str, &str); 2] = [("attempt_log_total", "bytes"), ("event_dropped", "up_to")];

async fn sqlite(path: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(path).foreign_keys(false).create_if_missing(false);
    SqliteConnection::connect_with(&options).await.unwrap()
}

async fn postgres(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap()
}

/// A statement for SQLite.
async fn change(path: &Path, sql: &str) {
    let mut connection = sqlite(path).await;
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

async fn moved(path: &Path, url: &str) -> Result<Migrated, MigrateError> {
    migrate(path, url, &mut |_| {}).await
}

/// The columns that are BOOLEAN in PostgreSQL, as `table.column`.
async fn flags(url: &str) -> BTreeSet<String> {
    let sql = "SELECT table_name || '.' || column_name FROM information_schema.columns WHERE data_type = 'boolean'";
    let rows = sqlx::query(sql).fetch_all(&mut postgres(url).await).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// The columns of each table: name, type, whether it may be NULL.
async fn columns(connection: &mut SqliteConnection) -> BTreeMap<String, Vec<(String, String, bool)>> {
    let sql = "SELECT t.name, c.name, c.type, c.\"notnull\" = 0 FROM sqlite_schema t, pragma_table_info(t.name) c \
               WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite%' AND t.name NOT LIKE '_sqlx%' ORDER BY t.name, c.cid";
    let mut tables: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for row in sqlx::query(sql).fetch_all(connection).await.unwrap() {
        tables.entry(row.get(0)).or_default().push((row.get(1), row.get(2), row.get(3)));
    }
    tables
}

/// Puts four rows into every table, whatever tables there are: at the bounds of what each type can hold, and with NULL wherever that may be.
/// A row's texts are all the same, and its numbers, so that what refers to another row finds it.
async fn fill(path: &Path, flags: &BTreeSet<String>) {
    let texts = [String::new(), "ü € \u{10ffff} '\"\\\t\r\n\u{1}".into(), "x".repeat(500), "\\N".into()];
    let numbers = [i64::MIN, -1, 0, 77];
    let bytes = [vec![], (0..=255).collect(), vec![0], b"\\x00\n".to_vec()];
    let mut connection = sqlite(path).await;
    for (table, columns) in columns(&mut connection).await {
        if SINGLE.iter().any(|(single, _)| *single == table) {
            continue;
        }
        let names: Vec<String> = columns.iter().map(|(name, ..)| format!("\"{name}\"")).collect();
        let places: Vec<String> = (1..=columns.len()).map(|n| format!("${n}")).collect();
        let sql = format!("INSERT INTO \"{table}\" ({}) VALUES ({})", names.join(", "), places.join(", "));
        for n in 0..4 {
            let mut query = sqlx::query(AssertSqlSafe(sql.clone()));
            for (name, kind, may_be_null) in &columns {
                let is_null = *may_be_null && n == 3;
                query = match kind.as_str() {
                    "INTEGER" if flags.contains(&format!("{table}.{name}")) => query.bind((!is_null).then_some(i64::from(n == 1))),
                    "INTEGER" => query.bind((!is_null).then_some(numbers[n])),
                    "TEXT" => query.bind((!is_null).then(|| texts[n].clone())),
                    "BLOB" => query.bind((!is_null).then(|| bytes[n].clone())),
                    other => panic!("{table}.{name} is {other}"),
                };
            }
            query.execute(&mut connection).await.unwrap_or_else(|e| panic!("{table}: {e}"));
        }
    }
    for (table, column) in SINGLE {
        sqlx::query(AssertSqlSafe(format!("UPDATE {table} SET {column} = 4711"))).execute(&mut connection).await.unwrap();
    }
    sqlx::query("UPDATE sequence SET value = 12345 WHERE name = 'change'").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

/// Every row of every table as texts that mean the same in both.
async fn rows_of_sqlite(path: &Path) -> BTreeMap<String, Vec<String>> {
    let mut connection = sqlite(path).await;
    let mut all = BTreeMap::new();
    for (table, columns) in columns(&mut connection).await {
        let part = |name: &str| format!("CASE WHEN \"{name}\" IS NULL THEN '{name}' ELSE '{name}=' || hex(CAST(\"{name}\" AS BLOB)) END");
        let parts: Vec<String> = columns.iter().map(|(name, ..)| part(name)).collect();
        let sql = format!("SELECT {} FROM \"{table}\"", parts.join(" || ','||"));
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut connection).await.unwrap();
        let mut rows: Vec<String> = rows.iter().map(|row| row.get::<String, _>(0).to_lowercase()).collect();
        rows.sort();
        all.insert(table, rows);
    }
    connection.close().await.unwrap();
    all
}

async fn rows_of_postgres(url: &str, tables: &BTreeMap<String, Vec<String>>) -> BTreeMap<String, Vec<String>> {
    let mut connection = postgres(url).await;
    let mut all = BTreeMap::new();
    for table in tables.keys() {
        let columns =
            "SELECT column_name::text, data_type::text FROM information_schema.columns WHERE table_name = $1 ORDER BY ordinal_position";
        let columns: Vec<(String, String)> = sqlx::query_as(columns).bind(table).fetch_all(&mut connection).await.unwrap();
        let parts: Vec<String> = columns
            .iter()
            .map(|(name, kind)| {
                let bytes = match kind.as_str() {
                    "bytea" => format!("\"{name}\""),
                    "boolean" => format!("convert_to(\"{name}\"::int::text, 'UTF8')"),
                    _ => format!("convert_to(\"{name}\"::text, 'UTF8')"),
                };
                format!("coalesce('{name}=' || encode({bytes}, 'hex'), '{name}')")
            })
            .collect();
        let sql = format!("SELECT {} FROM \"{table}\"", parts.join(" || ','||"));
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut connection).await.unwrap();
        let mut rows: Vec<String> = rows.iter().map(|row| row.get::<String, _>(0)).collect();
        rows.sort();
        all.insert(table.clone(), rows);
    }
    connection.close().await.unwrap();
    all
}

/// Without all the rows in the message.
fn assert_same(one: &BTreeMap<String, Vec<String>>, other: &BTreeMap<String, Vec<String>>) {
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    for (table, rows) in one {
        let differ = rows.iter().zip(&other[table]).find(|(one, other)| one != other);
        assert_eq!((differ, rows.len()), (None, other[table].len()), "{table}");
    }
}

/// A new database in SQLite, and the path of its file.
async fn source(database: &Database) -> PathBuf {
    let path = database.folder().join("source.db");
    Store::open(path.to_str().unwrap()).await.unwrap().close().await;
    path
}

async fn indexes(url: &str) -> Vec<String> {
    let sql = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' \
               UNION ALL SELECT conrelid::regclass || conname || pg_get_constraintdef(oid) FROM pg_constraint ORDER BY 1";
    sqlx::query(sql).fetch_all(&mut postgres(url).await).await.unwrap().iter().map(|row| row.get(0)).collect()
}

pub(crate) async fn every_table_and_column_is_moved_and_reads_back(database: Database) {
    let path = source(&database).await;
    fill(&path, &flags(&database.url).await).await;
    let before = rows_of_sqlite(&path).await;
    assert!(before.values().all(|rows| !rows.is_empty()) && before.len() > 50, "every table has rows: {}", before.len());
    // Into one that has its tables, and into one that has nothing.
    let nothing = tokio::task::block_in_place(|| sutler_tests::postgres::Postgres::shared().unwrap().create_database());
    let as_made = indexes(&database.url).await;
    for url in [database.url.clone(), nothing] {
        let mut phases = Vec::new();
        let done = migrate(&path, &url, &mut |progress| {
            assert!(progress.done <= progress.total);
            if phases.last() != Some(&progress.phase) {
                phases.push(progress.phase);
            }
        })
        .await
        .unwrap();
        assert_eq!(phases, [Phase::Examine, Phase::Copy, Phase::Index, Phase::Check]);
        assert!(!done.was_there);
        let counted: BTreeMap<_, _> = done.tables.into_iter().collect();
        assert_eq!(counted, before.iter().map(|(table, rows)| (table.clone(), rows.len() as u64)).collect());
        assert_same(&rows_of_postgres(&url, &before).await, &before);
        assert_eq!(indexes(&url).await, as_made, "indexes and foreign keys are what the migrations make");
        let store = Store::open(&url).await.unwrap();
        assert_eq!(read(&store, unit!([] | tx | { tx.last_change().await })).await, 12345);
        store.close().await;
        // What numbers itself goes on where it was.
        let sql = "INSERT INTO software (name, manager, version, architecture, clients) VALUES ('n', 'm', 'v', 'a', 0) RETURNING id";
        let (id,): (i64,) = sqlx::query_as(sql).fetch_one(&mut postgres(&url).await).await.unwrap();
        assert_eq!(id, 78);
        let refused = sqlx::query("UPDATE audit SET actor = 'x'").execute(&mut postgres(&url).await).await.unwrap_err();
        assert!(refused.to_string().contains("never changed"), "{refused}");
    }
    assert_same(&rows_of_sqlite(&path).await, &before);
}

pub(crate) async fn a_row_that_is_not_what_was_written_is_named_and_nothing_is_kept(database: Database) {
    let path = source(&database).await;
    fill(&path, &flags(&database.url).await).await;
    let before = rows_of_sqlite(&path).await;
    let empty = rows_of_postgres(&database.url, &before).await;
    let on = |table: &str, body: &str| {
        format!(
            "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$; \
             CREATE TRIGGER spoil BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION spoil()"
        )
    };
    for (table, body, words) in [
        ("operator", "IF NEW.name = '\\N' THEN NEW.created_ms := 1; END IF; RETURN NEW;", "the row \\N is another in created_ms"),
        ("audit", "IF NEW.sequence = 0 THEN RETURN NULL; END IF; RETURN NEW;", "the row 0 is missing"),
        ("delta", "IF NEW.new_manifest = '\\x00' THEN NEW.new_manifest := '\\x01'; END IF; RETURN NEW;", "the row 00/00 is missing"),
        ("setting", "IF NEW.key = '' THEN INSERT INTO setting VALUES ('w', ''); END IF; RETURN NEW;", "there is a row w too much"),
    ] {
        let mut connection = postgres(&database.url).await;
        sqlx::raw_sql(AssertSqlSafe(on(table, body))).execute(&mut connection).await.unwrap();
        let error = moved(&path, &database.url).await.unwrap_err();
        let MigrateError::Differs { table: named, difference } = &error else { panic!("{error}") };
        assert_eq!((named.as_str(), difference.as_str()), (table, words));
        assert_same(&rows_of_postgres(&database.url, &before).await, &empty);
        sqlx::raw_sql("DROP FUNCTION spoil CASCADE").execute(&mut connection).await.unwrap();
    }
    moved(&path, &database.url).await.unwrap();
    assert_same(&rows_of_postgres(&database.url, &before).await, &before);
}

pub(crate) async fn what_postgresql_has_no_place_for_is_named(database: Database) {
    let path = source(&database).await;
    let row = "INSERT INTO client_group (uid, name, description, restricted, join_mode, members, created_ms, change) VALUES";
    change(&path, &format!("{row} ('u1', 'a', 'd', 0, '', 0, 0, 1), ('u2', 'b', 'x' || char(0), 1, '', 0, 0, 2)")).await;
    let refused = |error: MigrateError, words: &[&str]| {
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    };
    let error = moved(&path, &database.url).await.unwrap_err();
    refused(error, &["row u2 of the table client_group", "description has a NUL"]);
    change(&path, "UPDATE client_group SET description = '', restricted = 2 WHERE uid = 'u2'").await;
    let error = moved(&path, &database.url).await.unwrap_err();
    refused(error, &["row u2 of the table client_group", "restricted is 2"]);
    // What refers to nothing, which SQLite takes where nobody has it look.
    change(&path, "UPDATE client_group SET restricted = 1; INSERT INTO client_seen VALUES ('nobody', 1)").await;
    refused(moved(&path, &database.url).await.unwrap_err(), &["client_seen", "foreign key"]);
    change(&path, "DELETE FROM client_seen").await;
    moved(&path, &database.url).await.unwrap();
}

pub(crate) async fn a_database_that_is_not_empty_or_in_use_is_left_alone(database: Database) {
    let path = source(&database).await;
    fill(&path, &flags(&database.url).await).await;
    let before = rows_of_sqlite(&path).await;
    let mut connection = postgres(&database.url).await;
    let refused = async |words: &[&str]| {
        let text = moved(&path, &database.url).await.unwrap_err().to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    };
    let run = async |connection: &mut PgConnection, sql: &'static str| sqlx::raw_sql(sql).execute(connection).await.map(drop).unwrap();
    run(&mut connection, "INSERT INTO setting VALUES ('a', '')").await;
    refused(&["not empty", "setting"]).await;
    run(&mut connection, "DELETE FROM setting; UPDATE sequence SET value = 7").await;
    refused(&["not empty", "sequence"]).await;
    run(&mut connection, "UPDATE sequence SET value = 0; INSERT INTO site VALUES ('s', NULL, '[]', true)").await;
    refused(&["not empty", "an installation that is not", "table"]).await;
    run(&mut connection, "DELETE FROM site; CREATE TABLE invoices (id INT)").await;
    refused(&["invoices"]).await;
    run(
        &mut connection,
        "DROP TABLE invoices; UPDATE _sqlx_migrations SET version = 999 WHERE version = (SELECT max(version) FROM _sqlx_migrations)",
    )
    .await;
    refused(&["version 999"]).await;
    let versions =
        "UPDATE _sqlx_migrations SET version = (SELECT max(version) FROM _sqlx_migrations WHERE version < 999) + 1 WHERE version = 999";
    run(&mut connection, versions).await;
    // Somebody has his hand on a table.
    run(&mut connection, "BEGIN; LOCK TABLE client IN ROW SHARE MODE").await;
    refused(&["somebody else uses"]).await;
    run(&mut connection, "ROLLBACK").await;
    // A database of somebody else's.
    let server = sutler_tests::postgres::Postgres::shared().unwrap();
    let other = tokio::task::block_in_place(|| server.create_database());
    run(&mut postgres(&other).await, "CREATE TABLE invoices (id INT)").await;
    let text = moved(&path, &other).await.unwrap_err().to_string();
    assert!(text.contains("not empty") && text.contains("invoices"), "{text}");
    let latin = other.replace(other.rsplit('/').next().unwrap(), "latin");
    tokio::task::block_in_place(|| {
        server.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE_PROVIDER libc LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
    });
    let text = moved(&path, &latin).await.unwrap_err().to_string();
    assert!(text.contains("LATIN1"), "{text}");
    moved(&path, &database.url).await.unwrap();
    assert_same(&rows_of_postgres(&database.url, &before).await, &before);
}

pub(crate) async fn what_is_there_already_is_compared_and_kept(database: Database) {
    let path = source(&database).await;
    fill(&path, &flags(&database.url).await).await;
    let first = moved(&path, &database.url).await.unwrap();
    let second = moved(&path, &database.url).await.unwrap();
    assert!(!first.was_there && second.was_there);
    assert_eq!(first.tables, second.tables);
    // The old installation went on.
    change(&path, "UPDATE operator SET created_ms = 5 WHERE name = '\\N'").await;
    let text = moved(&path, &database.url).await.unwrap_err().to_string();
    assert!(text.contains("not empty") && text.contains("operator") && text.contains("created_ms"), "{text}");
}

pub(crate) async fn a_database_of_another_version_or_with_damage_is_not_moved(database: Database) {
    let path = source(&database).await;
    let older = database.folder().join("older.db");
    std::fs::copy(&path, &older).unwrap();
    change(&older, "DELETE FROM _sqlx_migrations WHERE version = (SELECT max(version) FROM _sqlx_migrations)").await;
    let error = moved(&older, &database.url).await.unwrap_err();
    assert!(matches!(error, MigrateError::SourceVersion { found, expected } if found < expected), "{error}");
    let none = database.folder().join("none.db");
    assert!(matches!(moved(&none, &database.url).await, Err(MigrateError::Source(_))));
    assert!(!none.exists());
    // A row that its table has and its index doesn't.
    let damage = "INSERT INTO operator (name, created_ms) VALUES ('a', 1); PRAGMA writable_schema = ON; \
                  UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_setting_1') \
                  WHERE name = 'sqlite_autoindex_operator_1'";
    change(&path, damage).await;
    let error = moved(&path, &database.url).await.unwrap_err();
    assert!(matches!(error, MigrateError::Damaged(_)), "{error}");
}
