//! Questions that operators ask the users of machines, and what they answer.

use super::{AppError, Env, Result, clients, conditions::Asked, groups::check_etag, policies};
use std::collections::BTreeMap;
use sutler_base::{ClientId, PolicyName, QuestionName, limits, question::AnswerRule, quoted};
use sutler_core::{model::Question, policy::Event};
use sutler_store::{Page, StoreError, Tx};

/// A client, and its answers by the names of questions.
type Answered = (ClientId, BTreeMap<String, String>);

/// How many clients are looked at together.
const TOGETHER: u32 = 500;

/// All questions, by name; they are at most [`limits::QUESTIONS_MAX`].
pub async fn all(tx: &mut dyn Tx) -> Result<Vec<Question>> {
    Ok(tx.list_questions(&Page { after: None, limit: limits::PAGE_MAX }).await?)
}

async fn load(tx: &mut dyn Tx, name: &QuestionName) -> Result<Question> {
    tx.question(name).await?.ok_or_else(|| AppError::not_found("question", name))
}

/// The policies whose condition names the question.
async fn used_by(tx: &mut dyn Tx, env: &Env, name: &QuestionName) -> Result<Vec<PolicyName>> {
    let policies = tx.policies_with_trigger(None).await?;
    let asked = Asked::by(tx, env, policies.iter().map(|p| p.condition.as_str())).await?;
    let names = |condition: std::sync::Arc<sutler_core::condition::Condition>| condition.uses_question(name.as_str());
    Ok(policies.into_iter().filter(|p| asked.of(env, p).is_some_and(names)).map(|p| p.name).collect())
}

/// What makes a question.
#[derive(Debug, Clone, PartialEq)]
pub struct Create {
    /// Its name.
    pub name: QuestionName,
    /// What the user is asked.
    pub prompt: String,
    /// What the answer may be.
    pub rule: AnswerRule,
}

/// Asks a question.
pub async fn create(tx: &mut dyn Tx, env: &Env, input: &Create) -> Result<Question> {
    let asked = all(tx).await?.len();
    if asked >= limits::QUESTIONS_MAX {
        let message = format!("{asked} questions are asked already, and there are at most {}; delete one first", limits::QUESTIONS_MAX);
        return Err(AppError::state(format!("questions/{}", input.name), "TOO_MANY_QUESTIONS", message));
    }
    let question = Question {
        uid: env.world.uid(),
        name: input.name.clone(),
        prompt: input.prompt.clone(),
        rule: input.rule.clone(),
        created: env.now,
        change: 0,
    };
    tx.insert_question(&question).await.map_err(|e| match e {
        StoreError::Exists(_) => AppError::Exists {
            what: "question",
            name: input.name.to_string(),
            hint: "change that one with `question update`, or choose another name".into(),
        },
        other => other.into(),
    })?;
    env.audit(tx, "create_question", format!("questions/{}", input.name), described(&question)).await?;
    load(tx, &input.name).await
}

/// As it stands in the audit log.
fn described(question: &Question) -> String {
    let rule = serde_json::to_string(&question.rule).unwrap_or_default();
    format!("{} {rule}", quoted(&question.prompt))
}

/// A question, and the policies whose condition names it.
pub async fn get(tx: &mut dyn Tx, env: &Env, name: &QuestionName) -> Result<(Question, Vec<PolicyName>)> {
    Ok((load(tx, name).await?, used_by(tx, env, name).await?))
}

/// A page of questions and the key of the next one.
pub async fn list(tx: &mut dyn Tx, page: &Page) -> Result<(Vec<Question>, Option<String>)> {
    let rows = tx.list_questions(page).await?;
    let next = (rows.len() as u32 == page.limit).then(|| rows.last().map(|q| q.name.to_string())).flatten();
    Ok((rows, next))
}

/// What changes a question; `None` leaves a field as it is.
#[derive(Debug, Clone)]
pub struct Update {
    /// Which.
    pub name: QuestionName,
    /// What the user is asked.
    pub prompt: Option<String>,
    /// What the answer may be.
    pub rule: Option<AnswerRule>,
    /// Also if the condition of a policy names it.
    pub force: bool,
    /// What it was when the caller read it; empty for whatever it is.
    pub etag: String,
}

/// What came of a change.
#[derive(Debug, Clone)]
pub struct Changed {
    /// The question, as it is or was.
    pub question: Question,
    /// How many answers were dropped.
    pub dropped: i32,
    /// The policies whose condition names it.
    pub policies: Vec<PolicyName>,
}

fn in_use(name: &QuestionName, policies: &[PolicyName], doing: &str, forced: &str) -> AppError {
    let named: Vec<_> = policies.iter().map(|p| format!("policies/{p}")).collect();
    let message = format!(
        "questions/{name} can't be {doing}: answers.{name} stands in the condition of {}; change that first, or use --force, and {forced}",
        named.join(", ")
    );
    AppError::state(format!("questions/{name}"), "IN_USE", message)
}

/// Changes a question. Answers that don't fit it any more are dropped.
pub async fn update(tx: &mut dyn Tx, env: &Env, input: &Update) -> Result<Changed> {
    let mut question = load(tx, &input.name).await?;
    check_etag(&input.etag, question.change, || format!("questions/{}", input.name))?;
    let policies = used_by(tx, env, &input.name).await?;
    let rule = input.rule.clone().filter(|rule| *rule != question.rule);
    if rule.is_some() && !input.force && !policies.is_empty() {
        return Err(in_use(&input.name, &policies, "changed", "answers that don't fit are dropped"));
    }
    question.prompt = input.prompt.clone().unwrap_or(question.prompt);
    let mut unfit = Vec::new();
    if let Some(rule) = rule {
        question.rule = rule;
        unfit = with_answer(tx, &question, |answer| !question.rule.fits(answer)).await?;
    }
    tx.save_question(&question).await?;
    let dropped = drop_answers(tx, env, &question, unfit, !policies.is_empty()).await?;
    let detail = format!("{}, {dropped} answers dropped", described(&question));
    env.audit(tx, "update_question", format!("questions/{}", input.name), detail).await?;
    Ok(Changed { question: load(tx, &input.name).await?, dropped, policies })
}

/// Deletes a question, and the answers to it.
pub async fn delete(tx: &mut dyn Tx, env: &Env, name: &QuestionName, force: bool) -> Result<Changed> {
    let question = load(tx, name).await?;
    let policies = used_by(tx, env, name).await?;
    if !force && !policies.is_empty() {
        return Err(in_use(name, &policies, "deleted", "such a policy looks at nobody until its condition is another one"));
    }
    let answered = with_answer(tx, &question, |_| true).await?;
    tx.delete_question(&question.uid, env.now).await?;
    let dropped = drop_answers(tx, env, &question, answered, !policies.is_empty()).await?;
    let detail = format!("{dropped} answers dropped; it was in the condition of {} policies", policies.len());
    env.audit(tx, "delete_question", format!("questions/{name}"), detail).await?;
    Ok(Changed { question, dropped, policies })
}

/// The clients with such an answer to the question, and all their answers; read before anything is saved, each for update. Their
/// facts are not kept: they may be the whole fleet.
async fn with_answer(tx: &mut dyn Tx, question: &Question, such: impl Fn(&str) -> bool) -> Result<Vec<Answered>> {
    let mut found = Vec::new();
    let mut page = Page { after: None, limit: TOGETHER };
    loop {
        let ids = tx.clients_that_answered(&question.uid, &page).await?;
        let full = ids.len() as u32 == TOGETHER;
        page.after = ids.last().map(ClientId::to_string);
        for id in ids {
            if let Some(client) = tx.client(&id).await?
                && client.answers.get(question.name.as_str()).is_some_and(|answer| such(answer))
            {
                found.push((client.id, client.answers));
            }
        }
        if !full {
            return Ok(found);
        }
    }
}

/// Takes the answers of these clients to the question away, and lets policies look at them where one goes by it. Gives back how
/// many.
async fn drop_answers(tx: &mut dyn Tx, env: &Env, question: &Question, mut answered: Vec<Answered>, matters: bool) -> Result<i32> {
    for (_, answers) in &mut answered {
        answers.remove(question.name.as_str());
    }
    for some in answered.chunks(TOGETHER as usize) {
        tx.drop_answers(&question.uid, some).await?;
    }
    for some in answered.chunks(TOGETHER as usize).filter(|_| matters) {
        let clients = tx.lock_clients(&some.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>()).await?;
        let looks: Vec<_> = clients.iter().filter(|client| client.greeted).map(|client| (client, Event::Inventory)).collect();
        policies::look(tx, env, &looks).await?;
    }
    Ok(answered.len() as i32)
}

/// What some clients are asked, and what they answered.
#[derive(Debug, Clone)]
pub struct AskedOf {
    /// All questions, by name.
    pub questions: Vec<Question>,
    /// Each client with its answers, by the names of questions.
    pub clients: Vec<Answered>,
}

/// All questions, and the answers of these clients.
pub async fn asked_of(tx: &mut dyn Tx, ids: &[ClientId]) -> Result<AskedOf> {
    let questions = all(tx).await?;
    // Nobody has answered what nobody asks.
    let answers = if questions.is_empty() { vec![] } else { tx.clients(ids).await? };
    let answers: BTreeMap<ClientId, BTreeMap<String, String>> = answers.into_iter().map(|c| (c.id, c.answers)).collect();
    let clients = ids.iter().map(|id| (id.clone(), answers.get(id).cloned().unwrap_or_default())).collect();
    Ok(AskedOf { questions, clients })
}

/// Keeps what the user of a client answered, and lets the policies look at it; or says in a sentence why not.
pub async fn answer(tx: &mut dyn Tx, env: &Env, id: &ClientId, name: &str, text: &str) -> Result<std::result::Result<(), String>> {
    let mut client = clients::load(tx, id).await?;
    let question = match name.parse::<QuestionName>() {
        Ok(name) => tx.question(&name).await?,
        Err(_) => None,
    };
    let Some(question) = question else { return Ok(Err(format!("nobody asks {} any more", quoted(name)))) };
    let answer = match question.rule.answer(text) {
        Ok(answer) => answer,
        Err(why) => return Ok(Err(why.0)),
    };
    if client.answers.insert(question.name.to_string(), answer.clone()).as_ref() == Some(&answer) {
        return Ok(Ok(()));
    }
    tx.save_client(&client).await?;
    tx.note_answer(&question.uid, id).await?;
    env.audit(tx, "answer", format!("clients/{id}"), format!("{} = {}", question.name, quoted(&answer))).await?;
    if client.greeted {
        policies::look(tx, env, &[(&client, Event::Inventory)]).await?;
    }
    Ok(Ok(()))
}
