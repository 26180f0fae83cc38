//! `timestamptz` as the microseconds it is.

use sqlx::{
    Postgres,
    encode::IsNull,
    error::BoxDynError,
    postgres::{
        PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueFormat, PgValueRef, types::Oid,
    },
};

/// Microseconds from 1970, which the model counts from, to 2000, which PostgreSQL counts from.
const EPOCH_OFFSET: i64 = 946_684_800_000_000;

/// Microseconds since 1970, kept as `timestamptz`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Micros(pub(super) i64);

impl sqlx::Type<Postgres> for Micros {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1184))
    }
}

impl PgHasArrayType for Micros {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1185))
    }
}

impl sqlx::Encode<'_, Postgres> for Micros {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        sqlx::Encode::<Postgres>::encode_by_ref(&self.0.saturating_sub(EPOCH_OFFSET), buffer)
    }
}

impl sqlx::Decode<'_, Postgres> for Micros {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        if value.format() == PgValueFormat::Text {
            return Err("timestamptz came as text".into());
        }
        let micros = <i64 as sqlx::Decode<Postgres>>::decode(value)?;
        Ok(Self(micros.saturating_add(EPOCH_OFFSET)))
    }
}
