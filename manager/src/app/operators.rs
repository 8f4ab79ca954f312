//! Operators: made, changed, revoked; and what each may do.

use super::{AppError, Env, Result, approvals, enrolment, groups};
use std::collections::{BTreeMap, BTreeSet};
use sutler_base::{GroupName, OperatorName, Uid, state::Role};
use sutler_certs::{ca::CaBundle, keys::PublicKey};
use sutler_core::{
    approval::Voice,
    model::{Grant, Operator, Subject},
    rights,
};
use sutler_store::{Page, StoreError, Tx};

/// An operator, with the names of the groups in its scopes that exist.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The operator.
    pub operator: Operator,
    /// Names by uid.
    pub groups: BTreeMap<Uid, GroupName>,
    /// How many clients its jobs let go within an hour; none: as many as the manager has for all.
    pub budget: Option<u32>,
}

/// A role, as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Which.
    pub role: Role,
    /// Only for these groups; none: everywhere.
    pub groups: Option<BTreeSet<GroupName>>,
}

/// What makes an operator.
#[derive(Clone)]
pub struct Create {
    /// Its name, for ever.
    pub name: OperatorName,
    /// What it may do.
    pub roles: Vec<Wanted>,
    /// Its public key, whose possession was proved.
    pub key: PublicKey,
}

/// As what an operator was let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Who.
    pub operator: OperatorName,
    /// The serial number of the certificate that it showed.
    pub serial: String,
    /// What it might do.
    pub grants: Vec<Grant>,
}

/// Units that decide about operators. They lock them first and ask [`still_stands`] then: they may be about the very operator
/// who asks.
const ABOUT_OPERATORS: [&str; 3] = ["update_operator", "revoke_operator", "issue_operator"];

/// Refuses a change if the operator for whom it is made is not any more what it was let in as. It is the last statement of
/// every unit that changes something for an operator: by then the unit has its number in the change sequence, so that whatever
/// revocation has a smaller one is committed and seen here, and any other comes after this change.
pub(super) async fn still_stands(tx: &mut dyn Tx, env: &Env, unit: &str) -> Result<()> {
    match &env.standing {
        Some(standing) if !ABOUT_OPERATORS.contains(&unit) => stands(tx, standing).await,
        _ => Ok(()),
    }
}

async fn stands(tx: &mut dyn Tx, standing: &Standing) -> Result<()> {
    match enrolment::check_certificate(tx, &Subject::Operator(standing.operator.clone()), &standing.serial).await {
        // That a newer one came into use meanwhile takes nothing from the call that was under way.
        Err(AppError::Unauthenticated { reason: enrolment::SUPERSEDED, .. }) => {}
        other => other?,
    }
    if load(tx, &standing.operator).await?.grants != standing.grants {
        return Err(AppError::Regranted(standing.operator.to_string()));
    }
    Ok(())
}

/// Every operator that was not revoked, locked until the unit ends: whoever decides by all of them decides alone, and is still
/// what it was let in as.
async fn lock(tx: &mut dyn Tx, env: &Env) -> Result<Vec<Operator>> {
    let all = tx.lock_operators().await?;
    if let Some(standing) = &env.standing {
        stands(tx, standing).await?;
    }
    Ok(all)
}

/// The operator, or that there is none.
pub async fn load(tx: &mut dyn Tx, name: &OperatorName) -> Result<Operator> {
    tx.operator(name).await?.ok_or_else(|| AppError::not_found("operator", name))
}

/// One operator with what is shown of it.
pub async fn get(tx: &mut dyn Tx, name: &OperatorName) -> Result<Shown> {
    let operator = load(tx, name).await?;
    show(tx, operator).await
}

async fn show(tx: &mut dyn Tx, operator: Operator) -> Result<Shown> {
    let uids: Vec<Uid> = operator.grants.iter().flat_map(|g| g.groups.iter().flatten().cloned()).collect();
    let groups = tx.groups_by_uid(&uids).await?.into_iter().map(|g| (g.uid, g.name)).collect();
    let budget = tx.operator_budget(&operator.name).await?;
    Ok(Shown { operator, groups, budget })
}

/// A page of operators by name, and the key of the next one; those that were revoked are among them.
pub async fn list(tx: &mut dyn Tx, page: &Page) -> Result<(Vec<Shown>, Option<String>)> {
    let rows = tx.list_operators(page).await?;
    let next = (rows.len() as u32 == page.limit).then(|| rows.last().map(|o| o.name.to_string())).flatten();
    let mut out = Vec::with_capacity(rows.len());
    for operator in rows {
        out.push(show(tx, operator).await?);
    }
    Ok((out, next))
}

async fn grants(tx: &mut dyn Tx, wanted: &[Wanted]) -> Result<Vec<Grant>> {
    let mut grants = Vec::with_capacity(wanted.len());
    for Wanted { role, groups: names } in wanted {
        let mut scope = names.as_ref().map(|_| BTreeSet::new());
        for name in names.iter().flatten() {
            let uid = groups::load(tx, name).await?.uid;
            scope.get_or_insert_default().insert(uid);
        }
        grants.push(Grant { role: *role, groups: scope });
    }
    Ok(grants)
}

/// The roles in words, for the audit log: `DEPLOYER:new-clients VIEWER`.
fn words(wanted: &[Wanted]) -> String {
    let word = |w: &Wanted| match &w.groups {
        None => w.role.to_string(),
        Some(groups) => format!("{}:{}", w.role, groups.iter().map(GroupName::as_str).collect::<Vec<_>>().join(",")),
    };
    wanted.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// Makes an operator and gives it its first certificate. A name is never used again: it is what the audit log knows.
pub async fn create(tx: &mut dyn Tx, env: &Env, ca: &CaBundle, input: &Create) -> Result<(Shown, Vec<Vec<u8>>)> {
    let grants = grants(tx, &input.roles).await?;
    let operator = Operator {
        name: input.name.clone(),
        created: env.now,
        creator: env.actor.clone(),
        revoked: None,
        voice: given(Voice::default(), Some(&grants), env),
        grants,
        change: 0,
    };
    tx.insert_operator(&operator).await.map_err(|e| match e {
        StoreError::Exists(_) => AppError::Exists {
            what: "operator",
            name: input.name.to_string(),
            hint: "choose another name (also that of a revoked operator is never used again); a lost key is replaced with `operator issue`"
                .into(),
        },
        other => other.into(),
    })?;
    let certificates = enrolment::issue_operator(tx, env, ca, &input.name, &input.key).await?;
    env.audit(tx, "create_operator", format!("operators/{}", input.name), words(&input.roles)).await?;
    Ok((get(tx, &input.name).await?, certificates))
}

/// Since when an operator can be a second person that is given these roles now, or none any more.
fn given(voice: Voice, grants: Option<&[Grant]>, env: &Env) -> Voice {
    let may_agree = grants.is_some_and(approvals::may_agree_to_all);
    let before = voice.given;
    let voice = voice.given(may_agree, env.now, env.settings.limits.second_person_rest);
    // Whoever works on the manager's own host has all of it in his hands anyway: what is done there is how one gets out of a lock.
    if env.actor == "manager" { Voice { given: before, ..voice } } else { voice }
}

/// What changes an operator.
#[derive(Debug, Clone)]
pub struct Update {
    /// Which.
    pub name: OperatorName,
    /// What it may do from now on; none: what it could.
    pub roles: Vec<Wanted>,
    /// How many clients its jobs let go within an hour, if that is to be changed; 0 for no such budget.
    pub budget: Option<u32>,
    /// What it was when the caller read it; empty for whatever it is.
    pub etag: String,
}

/// Gives an operator other roles, or another budget. The calls and streams that they don't allow end within seconds.
pub async fn update(tx: &mut dyn Tx, env: &Env, input: &Update) -> Result<Shown> {
    let all = lock(tx, env).await?;
    let operator = standing(tx, &all, &input.name).await?;
    groups::check_etag(&input.etag, operator.change, || format!("operators/{}", input.name))?;
    let mut said = Vec::new();
    let grants = if input.roles.is_empty() { operator.grants } else { grants(tx, &input.roles).await? };
    if !rights::governs(&grants) {
        somebody_else_governs(&all, &input.name)?;
    }
    tx.set_grants(&input.name, &grants).await?;
    if !input.roles.is_empty() {
        tx.set_voice(&input.name, &given(operator.voice, Some(&grants), env)).await?;
        said.push(words(&input.roles));
    }
    if let Some(budget) = input.budget {
        tx.set_operator_budget(&input.name, Some(budget)).await?;
        said.push(format!("a budget of {budget} clients an hour"));
        env.wakes().brakes = true;
    }
    env.audit(tx, "update_operator", format!("operators/{}", input.name), said.join(", ")).await?;
    get(tx, &input.name).await
}

/// Cuts an operator off, for ever: its calls are refused from this commit on, its open streams end within seconds.
pub async fn revoke(tx: &mut dyn Tx, env: &Env, name: &OperatorName) -> Result<Shown> {
    let all = lock(tx, env).await?;
    let operator = load(tx, name).await?;
    if operator.revoked.is_some() {
        return get(tx, name).await;
    }
    somebody_else_governs(&all, name)?;
    tx.revoke_operator(name, env.now).await?;
    tx.set_voice(name, &given(operator.voice, None, env)).await?;
    tx.revoke_certificates(&Subject::Operator(name.clone())).await?;
    env.audit(tx, "revoke_operator", format!("operators/{name}"), "").await?;
    get(tx, name).await
}

/// Gives an operator whose key was lost a certificate for a new key; those it had are revoked.
pub async fn issue(tx: &mut dyn Tx, env: &Env, ca: &CaBundle, name: &OperatorName, key: &PublicKey) -> Result<(Shown, Vec<Vec<u8>>)> {
    let all = lock(tx, env).await?;
    let operator = standing(tx, &all, name).await?;
    tx.set_voice(name, &given(operator.voice, Some(&operator.grants), env)).await?;
    tx.revoke_certificates(&Subject::Operator(name.clone())).await?;
    let certificates = enrolment::issue_operator(tx, env, ca, name, key).await?;
    env.audit(tx, "issue_operator_certificate", format!("operators/{name}"), "for a new key; the earlier ones are revoked").await?;
    Ok((get(tx, name).await?, certificates))
}

/// The operator, unless it was revoked. `all` are those that were not.
async fn standing(tx: &mut dyn Tx, all: &[Operator], name: &OperatorName) -> Result<Operator> {
    match all.iter().find(|o| o.name == *name) {
        Some(operator) => Ok(operator.clone()),
        None => {
            load(tx, name).await?;
            let message = format!("operators/{name} was revoked, and that is for ever; make an operator with another name");
            Err(AppError::state(format!("operators/{name}"), "REVOKED", message))
        }
    }
}

/// An installation whose last administrator is gone could only be mended by hand.
fn somebody_else_governs(all: &[Operator], name: &OperatorName) -> Result<()> {
    if all.iter().any(|o| o.name != *name && rights::governs(&o.grants)) {
        return Ok(());
    }
    let message = format!("operators/{name} is the last ADMIN without a scope; give that role to another operator first");
    Err(AppError::state(format!("operators/{name}"), "LAST_ADMIN", message))
}
