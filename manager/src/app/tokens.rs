//! Enrolment tokens: made, listed, revoked.

use super::{AppError, Env, Result, clients, groups, trust};
use std::collections::BTreeMap;
use sutler_base::{ClientId, GroupName, LabelKey, TokenId, state::ClientState, token::TokenString};
use sutler_certs::secret::secret_hash;
use sutler_core::model::Token;
use sutler_store::{Page, Tx};

/// What makes tokens.
#[derive(Debug, Clone)]
pub struct Create {
    /// How many.
    pub count: u32,
    /// How often each can be used.
    pub uses: u32,
    /// For how long.
    pub ttl: jiff::SignedDuration,
    /// Networks in which clients are let in at once.
    pub networks: Vec<String>,
    /// Machines that are let in at once.
    pub expected: Vec<String>,
    /// Groups that clients are put into.
    pub groups: Vec<GroupName>,
    /// Labels that clients get.
    pub labels: BTreeMap<LabelKey, String>,
    /// The client whose machine they replace.
    pub replaces: Option<ClientId>,
    /// For people.
    pub description: String,
    /// The pin of the root CA.
    pub root_pin: [u8; 32],
}

/// A token, with the names of its groups.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The token.
    pub token: Token,
    /// The names of its groups.
    pub groups: Vec<GroupName>,
}

/// Makes tokens. The strings are here and nowhere else: only a hash of the secret is kept.
pub async fn create(tx: &mut dyn Tx, env: &Env, input: &Create) -> Result<Vec<(Shown, String)>> {
    let (pinned, _) = trust::newest(tx).await?;
    let mut uids = Vec::new();
    for name in &input.groups {
        uids.push(groups::load(tx, name).await?.uid);
    }
    if let Some(id) = &input.replaces
        && clients::load(tx, id).await?.state == ClientState::Removed
    {
        return Err(AppError::state(format!("clients/{id}"), "REMOVED", format!("clients/{id} was removed, for ever; enrol a new client")));
    }
    let expires = env.now.checked_add(input.ttl).map_err(|e| AppError::invalid("ttl", e))?;
    let mut out = Vec::with_capacity(input.count as usize);
    for _ in 0..input.count {
        let secret = env.world.secret();
        let token = Token {
            id: env.world.token_id(),
            secret_hash: secret_hash(&secret),
            description: input.description.clone(),
            uses: input.uses,
            used: 0,
            expires,
            networks: input.networks.clone(),
            expected: input.expected.clone(),
            groups: uids.clone(),
            labels: input.labels.clone(),
            replaces: input.replaces.clone(),
            created: env.now,
            creator: env.actor_name().to_owned(),
            revoked: None,
        };
        let string = TokenString {
            trust_domain: env.settings.trust_domain.clone(),
            addresses: env.settings.addresses.clone(),
            root_pin: input.root_pin,
            trust_pin: Some(pinned.digest()),
            id: token.id.clone(),
            secret,
        };
        out.push((Shown { token, groups: input.groups.clone() }, string.encode()));
    }
    let tokens: Vec<Token> = out.iter().map(|(shown, _)| shown.token.clone()).collect();
    tx.insert_tokens(&tokens).await?;
    for token in &tokens {
        let mut detail = format!("{} uses until {}, networks {:?}", token.uses, token.expires, token.networks);
        if let Some(client) = &token.replaces {
            detail.push_str(&format!(", replaces the machine of clients/{client}"));
        }
        env.audit(tx, "create_token", format!("tokens/{}", token.id), detail).await?;
    }
    Ok(out)
}

async fn show(tx: &mut dyn Tx, token: Token) -> Result<Shown> {
    let groups = tx.groups_by_uid(&token.groups).await?.into_iter().map(|g| g.name).collect();
    Ok(Shown { token, groups })
}

/// One token.
pub async fn get(tx: &mut dyn Tx, id: &TokenId) -> Result<Shown> {
    let token = tx.token(id).await?.ok_or_else(|| AppError::not_found("token", id))?;
    show(tx, token).await
}

/// A page of tokens and the key of the next one.
pub async fn list(tx: &mut dyn Tx, page: &Page) -> Result<(Vec<Shown>, Option<String>)> {
    let rows = tx.list_tokens(page).await?;
    let next = (rows.len() as u32 == page.limit).then(|| rows.last().map(|t| format!("{}/{}", t.created.as_millisecond(), t.id))).flatten();
    let mut out = Vec::new();
    for token in rows {
        out.push(show(tx, token).await?);
    }
    Ok((out, next))
}

/// Ends a token at once. Clients that enrolled with it stay.
pub async fn revoke(tx: &mut dyn Tx, env: &Env, id: &TokenId) -> Result<Shown> {
    let token = get(tx, id).await?;
    if token.token.revoked.is_none() {
        tx.revoke_token(id, env.now).await?;
        env.audit(tx, "revoke_token", format!("tokens/{id}"), "").await?;
    }
    get(tx, id).await
}
