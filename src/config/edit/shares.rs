//! Edits of `stable` and `split`.

use super::entry::{Changes, ServiceEntry, key, string};
use super::error::EditError;

impl ServiceEntry<'_> {
    /// Sets the share of the version: in its entry, in a new entry of `split`, or in a new `split` after `stable`.
    pub(super) fn share(&self, share: &str) -> Result<Changes, EditError> {
        let (_, stable) = self.stable()?;
        if stable == self.target {
            return Err(EditError::IsStable(self.name.to_owned(), stable.to_owned()));
        }
        let malformed = || EditError::Malformed(self.name.to_owned());
        let entry = format!("{} = \"{share}\"", key(self.target));
        let Some((split_key, value)) = self.table.get("split") else {
            let (at, stable) = self.table.get("stable").ok_or_else(malformed)?;
            let entry = format!("split = {{ {entry} }}");
            return Ok(vec![self.after(
                self.table.inline,
                &at,
                &stable.span(),
                &entry,
            )]);
        };
        let split = self.table.enter(self.text, "split").ok_or_else(malformed)?;
        if let Some((_, value)) = split.get(self.target) {
            return Ok(vec![(value.span(), format!("\"{share}\""))]);
        }
        let last = split
            .table
            .iter()
            .map(|(key, value)| (key.span(), value.span()))
            .max_by_key(|(_, value)| value.end);
        Ok(vec![match last {
            Some((key, value)) => self.after(split.inline, &key, &value, &entry),
            None if self.text[value.span().start..].starts_with('{') => {
                (value.span(), format!("{{ {entry} }}"))
            }
            None => {
                let (at, line) = self.line_after(split_key.end, "", &entry);
                (at, line)
            }
        }])
    }

    /// Makes the version stable, in exchange with the current one.
    pub(super) fn promote(&self) -> Result<Changes, EditError> {
        let (stable, name) = self.stable()?;
        let Some(stable) = stable else {
            return Ok(Vec::new()); // The only version is stable already.
        };
        let mut changes = vec![(stable, string(self.target))];
        let split = self.table.enter(self.text, "split");
        if name != self.target
            && let Some((at, share)) = split.and_then(|s| s.get(self.target))
        {
            changes.push((at, key(name)));
            changes.push((share.span(), "\"0%\"".to_owned()));
        }
        Ok(changes)
    }
}
