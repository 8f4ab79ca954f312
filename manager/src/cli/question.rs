//! `sutler question`: what the users of machines are asked.

use super::{
    error::CliError,
    names,
    output::{self, Column, OutputArg, Record},
    session::{Session, call, pages, request_id},
    when::moment,
};
use clap::{Args, Subcommand, ValueEnum};
use sutler_proto::v1;

/// Examples of the noun.
pub const EXAMPLES: &str = "Examples:
  sutler question create room --prompt 'In which room is this machine?'
  sutler client list --filter 'answers.room == \"B7\"' --columns id,hostname,answers.room";

/// What kind of value an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Type {
    /// A text
    String,
    /// A whole number
    Integer,
    /// true or false
    Boolean,
    /// One of several texts
    Choice,
}

/// What the answer may be.
#[derive(Debug, Args)]
pub struct Rule {
    /// What kind of value the answer is [default: choice with --choice, else string]
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    kind: Option<Type>,
    /// A text that can be chosen; once for each
    #[arg(long = "choice", value_name = "TEXT", conflicts_with = "pattern")]
    choices: Vec<String>,
    /// A regular expression that a text must match whole
    #[arg(long, value_name = "PATTERN")]
    pattern: Option<String>,
}

impl Rule {
    /// As it is sent; none if nothing was said.
    fn wire(self) -> Option<v1::AnswerRule> {
        let Rule { kind, choices, pattern } = self;
        if kind.is_none() && choices.is_empty() && pattern.is_none() {
            return None;
        }
        let kind = match kind {
            Some(Type::Integer) => v1::AnswerType::Integer,
            Some(Type::Boolean) => v1::AnswerType::Boolean,
            Some(Type::Choice) => v1::AnswerType::Choice,
            None if !choices.is_empty() => v1::AnswerType::Choice,
            Some(Type::String) | None => v1::AnswerType::String,
        };
        Some(v1::AnswerRule { r#type: kind.into(), choices, pattern: pattern.unwrap_or_default() })
    }
}

/// What can be done with questions.
#[derive(Debug, Subcommand)]
pub enum QuestionCommand {
    /// Ask a question: `sutler-agent questions` shows it, and conditions know the answer as answers.NAME
    #[command(after_help = "Examples:
  sutler question create room --prompt 'In which room is this machine?' --pattern '[A-Z][0-9]+'
  sutler question create seats --prompt 'How many people use it?' --type integer
  sutler question create use --prompt 'What is it for?' --choice office --choice lab")]
    Create {
        /// Its name: 1 to 63 of a-z 0-9 and _, beginning with a letter
        #[arg(value_parser = names::question)]
        name: String,
        /// What the user is asked
        #[arg(long, value_name = "TEXT")]
        prompt: String,
        /// What the answer may be
        #[command(flatten)]
        rule: Rule,
    },
    /// List questions
    #[command(after_help = "Examples:
  sutler question list")]
    List {
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// Show one question, and the policies whose condition names it
    #[command(after_help = "Examples:
  sutler question show room")]
    Show {
        /// The question
        #[arg(value_parser = names::question)]
        name: String,
        /// How to show it
        #[command(flatten)]
        output: OutputArg,
    },
    /// Change what is given; what an answer may be is changed as a whole
    #[command(group = clap::ArgGroup::new("change").required(true).multiple(true).args(["prompt", "kind", "choices", "pattern"]),
        after_help = "Examples:
  sutler question update room --prompt 'Which room is it in?'
  sutler question update use --choice office --choice lab --choice kiosk")]
    Update {
        /// The question
        #[arg(value_parser = names::question)]
        name: String,
        /// What the user is asked
        #[arg(long, value_name = "TEXT")]
        prompt: Option<String>,
        /// What the answer may be
        #[command(flatten)]
        rule: Rule,
        /// Also if the condition of a policy names it; answers that do not fit are dropped
        #[arg(long)]
        force: bool,
        /// Only if the question still has this etag
        #[arg(long, default_value = "", hide_default_value = true)]
        etag: String,
    },
    /// Delete a question and the answers to it
    #[command(after_help = "Examples:
  sutler question delete room")]
    Delete {
        /// The question
        #[arg(value_parser = names::question)]
        name: String,
        /// Also if the condition of a policy names it: that policy looks at nobody until it is changed
        #[arg(long)]
        force: bool,
    },
}

impl Record for v1::Question {
    const TYPE: &'static str = "sutler.v1.Question";
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("name", |q| names::short(&q.name).to_owned()),
        Column::new("prompt", |q| q.prompt.clone()),
        Column::new("answer", |q| q.rule.as_ref().map(described).unwrap_or_default()),
        Column::wide("created", |q| moment(&q.create_time)),
        Column::wide("uid", |q| q.uid.clone()),
        Column::wide("etag", |q| q.etag.clone()),
    ];
}

/// What an answer may be, in words.
fn described(rule: &v1::AnswerRule) -> String {
    match v1::AnswerType::try_from(rule.r#type) {
        Ok(v1::AnswerType::Integer) => "integer".to_owned(),
        Ok(v1::AnswerType::Boolean) => "boolean".to_owned(),
        Ok(v1::AnswerType::Choice) => format!("one of: {}", rule.choices.join(", ")),
        _ if rule.pattern.is_empty() => "string".to_owned(),
        _ => format!("string like {}", rule.pattern),
    }
}

/// What became of answers, and of policies.
fn told(done: &str, dropped: i32, policies: &[String], then: &str) -> String {
    let mut sentence = done.to_owned();
    match dropped {
        0 => {}
        1 => sentence.push_str("; 1 answer was dropped"),
        n => sentence.push_str(&format!("; {n} answers were dropped")),
    }
    if !policies.is_empty() {
        sentence.push_str(&format!("; {then} {}", names::words(policies)));
    }
    sentence
}

/// Runs a command of this noun.
pub async fn run(command: QuestionCommand, session: &Session) -> Result<u8, CliError> {
    match command {
        QuestionCommand::Create { name, prompt, rule } => {
            let id = names::short(&name).to_owned();
            let tried = format!("create the question {id}");
            let request = v1::CreateQuestionRequest { question_id: id.clone(), prompt, rule: rule.wire(), request_id: request_id()? };
            let answer = call!(session, questions.create_question(request), "{tried}")?;
            session.done(&answer.question.unwrap_or_default().name, &format!("created: conditions know the answer as answers.{id}"))?;
        }
        QuestionCommand::List { output } => {
            let request = v1::ListQuestionsRequest::default();
            let questions = pages!(session, questions.list_questions(request) -> questions, "list the questions");
            output::list(&questions, output.format)?;
        }
        QuestionCommand::Show { name, output } => {
            let request = v1::GetQuestionRequest { name: name.clone() };
            let answer = call!(session, questions.get_question(request), "show the question {}", names::short(&name))?;
            output::show(&answer.question.unwrap_or_default(), output.format)?;
            if !answer.policies.is_empty() {
                session.tell(&format!("it stands in the condition of {}", names::words(&answer.policies)));
            }
        }
        QuestionCommand::Update { name, prompt, rule, force, etag } => {
            let tried = format!("update the question {}", names::short(&name));
            let request = v1::UpdateQuestionRequest { name, prompt, rule: rule.wire(), force, etag, request_id: request_id()? };
            let answer = call!(session, questions.update_question(request), "{tried}")?;
            let sentence = told("updated", answer.dropped_answers, &answer.policies, "it stands in the condition of");
            session.done(&answer.question.unwrap_or_default().name, &sentence)?;
        }
        QuestionCommand::Delete { name, force } => {
            let request = v1::DeleteQuestionRequest { name: name.clone(), force, request_id: request_id()? };
            let answer = call!(session, questions.delete_question(request), "delete the question {}", names::short(&name))?;
            let then = "policies that match nobody until they are changed:";
            session.done(&name, &told("deleted", answer.dropped_answers, &answer.policies, then))?;
        }
    }
    Ok(0)
}
