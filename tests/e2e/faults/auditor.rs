//! The auditor itself: it must see what is missing, doubled or wrong, or the rest proves nothing.

use anyhow::ensure;
use e2e::Bed;
use sqlx::Executor;

#[tokio::test(flavor = "multi_thread")]
async fn it_sees_what_is_missing_doubled_and_wrong() -> anyhow::Result<()> {
    const TAMPER: [&str; 3] = [
        "DELETE FROM readings r USING devices d, metrics m
         WHERE d.id = r.device_id AND m.id = r.metric_id AND d.device_id = 'audit-7'
           AND m.name = 'tenths' AND r.number = 0.1",
        "INSERT INTO device_log SELECT l.* FROM device_log l JOIN devices d ON d.id = l.device_id
         WHERE d.device_id = 'audit-8' ORDER BY l.position DESC LIMIT 1",
        "UPDATE readings r SET text = 'audit-9/9' FROM devices d
         WHERE d.id = r.device_id AND d.device_id = 'audit-9' AND r.text = 'audit-9/0'",
    ];
    let mut bed = Bed::start().await?;
    bed.audit().await?;
    for sql in TAMPER {
        bed.database().await?.execute(sql).await?;
    }
    let verdict = bed.compare().await?;
    // What is not whole is also wrong.
    ensure!((verdict.missing, verdict.doubled, verdict.wrong) == (2, 1, 2), "{verdict:#}");
    Ok(())
}
