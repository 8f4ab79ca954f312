//! `QuestionService`.

use super::{Services, caller, page, parsed, shown, status};
use crate::app::{AppError, Violations, questions};
use sutler_base::{PolicyName, is_harmful, limits, question::AnswerRule};
use sutler_proto::{
    convert::{question_name, rule},
    v1,
};
use tonic::{Request, Response, Status, async_trait};

fn policies(names: Vec<PolicyName>) -> Vec<String> {
    names.into_iter().map(|name| format!("policies/{name}")).collect()
}

/// Notes a text that nobody can be asked with: it is shown on a line of a terminal.
fn prompt(v: &mut Violations, text: &str) {
    if text.is_empty() || text.len() > limits::PROMPT_MAX {
        v.add("prompt", format!("has 1 to {} bytes, not {}", limits::PROMPT_MAX, text.len()));
    } else if text.chars().any(is_harmful) {
        v.add("prompt", "has no control characters");
    }
}

/// What makes a question.
pub(super) fn create(r: &v1::CreateQuestionRequest) -> Result<questions::Create, AppError> {
    let mut v = Violations::default();
    let name = v.take("question_id", r.question_id.parse());
    prompt(&mut v, &r.prompt);
    let rule = match &r.rule {
        Some(wire) => v.take("rule", rule(wire)),
        None => Some(AnswerRule::String { pattern: None }),
    };
    let (name, rule) = v.whole(name.zip(rule))?;
    Ok(questions::Create { name, prompt: r.prompt.clone(), rule })
}

#[async_trait]
impl v1::question_service_server::QuestionService for Services {
    async fn create_question(&self, request: Request<v1::CreateQuestionRequest>) -> Result<Response<v1::CreateQuestionResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "CreateQuestion", &r)?;
        let input = create(&r)?;
        let answer = self.app.mutate(
            &caller,
            "create_question",
            body,
            input,
            |tx, env, i| Box::pin(questions::create(tx, env, i)),
            |q| v1::CreateQuestionResponse { question: Some(shown::question(q)) },
        );
        answer.await.map(Response::new).map_err(status)
    }

    async fn get_question(&self, request: Request<v1::GetQuestionRequest>) -> Result<Response<v1::GetQuestionResponse>, Status> {
        let operator = self.operator(&request)?;
        let mut v = Violations::default();
        let name = v.take("name", question_name(&request.get_ref().name));
        v.done()?;
        let name = parsed(name)?;
        let (question, users) =
            self.app.view(&operator, "get_question", name, |tx, env, n| Box::pin(questions::get(tx, env, n))).await.map_err(status)?;
        Ok(Response::new(v1::GetQuestionResponse { question: Some(shown::question(question)), policies: policies(users) }))
    }

    async fn list_questions(&self, request: Request<v1::ListQuestionsRequest>) -> Result<Response<v1::ListQuestionsResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let mut v = Violations::default();
        let page = page(&mut v, r.page_size, &r.page_token);
        v.done()?;
        let (rows, next) =
            self.app.view(&operator, "list_questions", page, |tx, _env, page| Box::pin(questions::list(tx, page))).await.map_err(status)?;
        let questions = rows.into_iter().map(shown::question).collect();
        Ok(Response::new(v1::ListQuestionsResponse { questions, next_page_token: next.unwrap_or_default() }))
    }

    async fn update_question(&self, request: Request<v1::UpdateQuestionRequest>) -> Result<Response<v1::UpdateQuestionResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "UpdateQuestion", &r)?;
        let mut v = Violations::default();
        let name = v.take("name", question_name(&r.name));
        if let Some(text) = &r.prompt {
            prompt(&mut v, text);
        }
        let rule = r.rule.as_ref().and_then(|wire| v.take("rule", rule(wire)));
        v.done()?;
        let input = questions::Update { name: parsed(name)?, prompt: r.prompt, rule, force: r.force, etag: r.etag };
        let answer = self.app.mutate(
            &caller,
            "update_question",
            body,
            input,
            |tx, env, i| Box::pin(questions::update(tx, env, i)),
            |changed| v1::UpdateQuestionResponse {
                question: Some(shown::question(changed.question)),
                dropped_answers: changed.dropped,
                policies: policies(changed.policies),
            },
        );
        answer.await.map(Response::new).map_err(status)
    }

    async fn delete_question(&self, request: Request<v1::DeleteQuestionRequest>) -> Result<Response<v1::DeleteQuestionResponse>, Status> {
        let operator = self.operator(&request)?;
        let r = request.into_inner();
        let (caller, body) = caller(&operator, &r.request_id, "DeleteQuestion", &r)?;
        let mut v = Violations::default();
        let name = v.take("name", question_name(&r.name));
        v.done()?;
        let answer = self.app.mutate(
            &caller,
            "delete_question",
            body,
            (parsed(name)?, r.force),
            |tx, env, (name, force)| Box::pin(questions::delete(tx, env, name, *force)),
            |changed| v1::DeleteQuestionResponse { dropped_answers: changed.dropped, policies: policies(changed.policies) },
        );
        answer.await.map(Response::new).map_err(status)
    }
}
