"""The API of group `datapipeline.dev`: pydantic models per kind, reasons, CRD generator. Imports nothing of ours."""
