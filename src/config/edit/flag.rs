//! The edit of a flag: its share.

use super::entry::{Changes, ServiceEntry};
use super::error::EditError;

impl ServiceEntry<'_> {
    /// Sets the share of the flag: in its entry, or in a new one after its conditions.
    pub(super) fn flag_share(&self, share: &str) -> Result<Changes, EditError> {
        let malformed = || EditError::Malformed(self.name.to_owned());
        let flags = self.table.enter(self.text, "flags").ok_or_else(malformed)?;
        let flag = flags.enter(self.text, self.target).ok_or_else(malformed)?;
        if let Some((_, value)) = flag.get("share") {
            return Ok(vec![(value.span(), format!("\"{share}\""))]);
        }
        let (at, when) = flag.get("when").ok_or_else(malformed)?;
        let line = self.text[..at.start].rfind('\n').map_or(0, |n| n + 1);
        if self.text[line..].trim_start().starts_with('[') {
            // A line after conditions that have a header of their own would belong to them.
            let (service, flag) = (self.name.to_owned(), self.target.to_owned());
            return Err(EditError::NoShare(service, flag));
        }
        let entry = format!("share = \"{share}\"");
        Ok(vec![self.after(flag.inline, &at, &when.span(), &entry)])
    }
}
