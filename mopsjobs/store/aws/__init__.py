"""What the stores in DynamoDB and S3 share: the client of boto3, its errors, and the settings that name a store."""
